import { availableParallelism, totalmem } from "node:os";
import { join } from "node:path";

import { defineOptions, MiB, type OptionValues } from "@roost/kit";
import { z } from "zod";

const addressListSchema = z
  .string()
  .transform((text) => text.split(",").map((part) => part.trim()))
  .pipe(z.array(z.ipv4()).min(1).max(3));

/** Settings of the host agent. */
export const hostAgentOptions = defineOptions("ROOST_", {
  dir: { schema: z.string().startsWith("/").default("/var/lib/roost"), desc: "State folder: sandboxes, disks, sockets" },
  cacheDir: { schema: z.string().startsWith("/").default("/var/cache/roost"), desc: "Images live in its `images` folder" },
  vmm: { schema: z.enum(["qemu"]).default("qemu"), desc: "Which VMM starts sandboxes" },
  accelerator: {
    schema: z.enum(["auto", "kvm", "tcg"]).default("auto"),
    desc: "`auto` uses hardware virtualization where it really works",
  },
  sandboxCountMax: {
    schema: z.coerce.number().int().min(1).max(1_023).default(256),
    desc: "Sandboxes this host holds at once; each takes one network slot",
  },
  slotPoolSize: {
    schema: z.coerce.number().int().min(0).max(64).default(4),
    desc: "Network slots prepared ahead of need",
  },
  slotCidr: {
    schema: z
      .cidrv4()
      .refine((cidr) => Number(cidr.split("/")[1]) >= 15 && Number(cidr.split("/")[1]) <= 29, "a range from /15 to /29")
      .default("198.18.0.0/15"),
    desc: "Addresses of network slots; an installation claims one /21 of it (default: RFC 2544's range, which the internet does not use)",
  },
  uidBase: {
    schema: z.coerce.number().int().min(1_000).max(4_000_000_000).default(1_879_048_192),
    desc: "First of 65536 uids for VMMs; a slot's number and the claimed address block choose the uid",
  },
  memoryReservedMib: {
    schema: z.coerce.number().int().min(0).default(1024),
    desc: "Memory in MiB that sandboxes may not reserve",
  },
  memoryOvercommit: {
    schema: z.coerce.number().min(1).max(16).default(1),
    desc: "Guest memory that may be promised, as a multiple of what the host has",
  },
  guestDnsServers: {
    schema: addressListSchema.optional(),
    desc: "Resolvers of the guests, comma-separated; default: the host's own. Guests may reach them on port 53 even in private ranges",
  },
});

export type HostAgentOptions = OptionValues<typeof hostAgentOptions.table>;

/** Folder of `images.json`. */
export const imagesFolder = (options: Pick<HostAgentOptions, "cacheDir">) => join(options.cacheDir, "images");

/** What the machine has: CPUs, and memory in `MiB`. */
export function machineSize(): { readonly cpuCount: number; readonly memoryMib: number } {
  return { cpuCount: availableParallelism(), memoryMib: Math.trunc(totalmem() / MiB) };
}
