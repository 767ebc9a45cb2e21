import { availableParallelism, totalmem } from "node:os";
import { join } from "node:path";

import { guestConnectionsMax, guestConnectionsPerSecMax, hostAddressSchema, mbitPerSecMax } from "@roost/contract";
import { defineOptions, MiB, type OptionValues } from "@roost/kit";
import { z } from "zod";

const addressListSchema = z
  .string()
  .transform((text) => text.split(",").map((part) => part.trim()))
  .pipe(z.array(z.ipv4()).min(1).max(3));

const rangeListSchema = z
  .string()
  .transform((text) => text.split(",").map((part) => part.trim()))
  .pipe(z.array(z.cidrv4()).min(1).max(64));

/** Most VMs that may wait for one template */
const poolSizeMax = 256;

/** `base=2,python=1` */
const poolSizesSchema = z
  .string()
  .transform((text) => (text.trim() === "none" ? [] : text.split(",")))
  .pipe(
    z
      .array(
        z.string().regex(/^\s*[a-zA-Z0-9][a-zA-Z0-9._-]*(?::[a-zA-Z0-9][a-zA-Z0-9._-]*)?\s*=\s*\d{1,3}\s*$/, "written as template=count"),
      )
      .max(64),
  )
  .transform(
    (parts) => new Map(parts.map((part) => [part.split("=")[0]?.trim() ?? "", Math.min(Number(part.split("=")[1]), poolSizeMax)] as const)),
  );

/** `docker.io,registry.example.com:5000` */
const registriesSchema = z
  .string()
  .transform((text) =>
    text
      .split(",")
      .map((part) => part.trim().toLowerCase())
      .filter((part) => part !== ""),
  )
  .pipe(z.array(z.string().regex(/^[a-z0-9.-]+(:\d{1,5})?$/, "written as host or host:port")).max(256))
  .transform((names) => new Set(names));

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
  poolSizes: {
    schema: poolSizesSchema.prefault("base=2"),
    desc: "VMs that wait for a create, by template, such as `base=2,python=1`, or `none`. Each takes memory as a sandbox does",
  },
  memoryImages: {
    schema: z.stringbool().default(true),
    desc: "Whether memory images of templates are made in the background and used, so that sandboxes start from memory",
  },
  pauseDrainSec: {
    schema: z.coerce.number().int().min(0).max(60).default(5),
    desc: "How long a pause waits for requests to ports of the sandbox that are under way, in s",
  },
  checkpointsKept: {
    schema: z.coerce.number().int().min(0).max(100).default(5),
    desc: "Checkpoints kept of each sandbox, the newest, beside its current generation",
  },
  rebaseMib: {
    schema: z.coerce.number().int().min(1).default(96),
    desc: "A paused sandbox whose memory differs from its base file by more than this many MiB gets a base file of its own",
  },
  layersMax: {
    schema: z.coerce.number().int().min(1).max(32).default(8),
    desc: "A disk with more layers than this is merged in the background",
  },
  buildCacheMib: {
    schema: z.coerce.number().int().min(0).default(10_240),
    desc: "What the results of template builds' steps may take in MiB; above it those that were used least recently go",
  },
  registries: {
    schema: registriesSchema.optional(),
    desc: "Registries that images may be imported from, comma-separated, such as `docker.io,registry.example.com:5000`; default: any",
  },
  insecureRegistries: {
    schema: registriesSchema.prefault(""),
    desc: "Registries whose certificate is not checked, or that have none, comma-separated; those on this host's loopback need not be named",
  },
  importMaxMib: {
    schema: z.coerce.number().int().min(1).default(16_384),
    desc: "Most that an imported image may have in MiB, unpacked, and an archive that is sent to be imported",
  },
  importCacheMib: {
    schema: z.coerce.number().int().min(0).default(10_240),
    desc: "What layers fetched from registries may take in MiB; above it those that were used least recently go",
  },
  importedMib: {
    schema: z.coerce.number().int().min(0).default(20_480),
    desc: "What imported images may take in MiB; above it those that nothing depends on go, least recently used first",
  },
  logsRetentionSec: {
    schema: z.coerce
      .number()
      .int()
      .min(0)
      .default(24 * 3600),
    desc: "How long the log of a sandbox that is gone is kept after its last entry, in s",
  },
  logsMaxMib: {
    schema: z.coerce.number().int().min(1).default(1024),
    desc: "What the logs of all sandboxes together may take in MiB; above it the oldest go",
  },
  guestDnsServers: {
    schema: addressListSchema.optional(),
    desc: "Resolvers of the guests, comma-separated; default: the host's own. Guests may reach them on port 53 even in private ranges",
  },
  egressProxyRanges: {
    schema: rangeListSchema.optional(),
    desc: "CIDR blocks, comma-separated, where egress proxies of sandboxes may be although no sandbox reaches them; default: none",
  },
  egressCa: {
    schema: z.string().startsWith("/").optional(),
    desc: "File of certificates (PEM) of authorities to believe beside the system's, where headers are set on requests of sandboxes (a company's own)",
  },
  guestMbitMax: {
    schema: z.coerce.number().int().min(0).max(mbitPerSecMax).default(0),
    desc: "What each sandbox may send, and what it may receive, by connections that it opens, in Mbit per s; 0: no limit",
  },
  guestConnectionsMax: {
    schema: z.coerce.number().int().min(1).max(guestConnectionsMax).default(4_096),
    desc: "Connections that each sandbox may have open at once; all of them share the host's connection table (net.netfilter.nf_conntrack_max)",
  },
  guestConnectionsPerSecMax: {
    schema: z.coerce.number().int().min(1).max(guestConnectionsPerSecMax).default(500),
    desc: "New connections that each sandbox may open in a second; twice as many may come at once",
  },
});

export type HostAgentOptions = OptionValues<typeof hostAgentOptions.table>;

/** Settings of a host agent that is a process of its own: how it joins its control plane. */
export const membershipOptions = defineOptions("ROOST_", {
  register: {
    schema: z.string().optional(),
    desc: "Registration token, as `roost host add` prints it; used up once the host is registered, and not needed after that",
    secret: true,
  },
  controlPlane: {
    schema: z
      .url({ protocol: /^https$/, error: "written as https://roost.example.org:7071" })
      .refine((url) => new URL(url).origin === url.replace(/\/$/, ""), "must have no path")
      .transform((url) => new URL(url).origin)
      .optional(),
    desc: "The control plane's host port; default: where this host registered",
  },
  address: {
    schema: hostAddressSchema.optional(),
    desc: "Where the control plane reaches this host agent, as host:port; default: as it was when it registered",
  },
  listen: {
    schema: hostAddressSchema.optional(),
    desc: "Where this host agent listens, as host:port, if that is not ROOST_ADDRESS: behind address translation",
  },
});

export type MembershipOptions = OptionValues<typeof membershipOptions.table>;

/** Folder of `images.json`. */
export const imagesFolder = (options: Pick<HostAgentOptions, "cacheDir">) => join(options.cacheDir, "images");

/** What the machine has: CPUs, and memory in `MiB`. */
export function machineSize(): { readonly cpuCount: number; readonly memoryMib: number } {
  return { cpuCount: availableParallelism(), memoryMib: Math.trunc(totalmem() / MiB) };
}
