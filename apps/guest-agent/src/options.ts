import { defineOptions, type OptionValues } from "@roost/kit";
import { z } from "zod";

/** Settings of the guest agent. The defaults are those of a guest; tests set others. */
export const guestAgentOptions = defineOptions("ROOST_GUEST_", {
  host: { schema: z.string().default("0.0.0.0"), desc: "Address the agent listens on" },
  port: { schema: z.coerce.number().int().min(0).max(65_535).default(49_983), desc: "Port the agent listens on; 0 takes a free one" },
  stateFolder: { schema: z.string().default("/run/roost/guest-agent"), desc: "Where the state of /init is kept; a tmpfs" },
  agentDiskFolder: { schema: z.string().default("/run/roost/agent"), desc: "Where the agent disk is mounted" },
  etcFolder: { schema: z.string().default("/etc"), desc: "Folder of the passwd and group files" },
  launcher: { schema: z.string().optional(), desc: "Program that starts processes; default: `launcher` beside the bundle" },
  outerAddress: { schema: z.string().default("169.254.0.21"), desc: "Address the host dials; loopback listeners are forwarded to it" },
  scanIntervalMs: {
    schema: z.coerce.number().int().min(0).max(3_600_000).default(1_000),
    desc: "Time in ms between two looks for loopback listeners; 0 forwards none",
  },
  logLevel: { schema: z.enum(["debug", "info", "warn", "error", "silent"]).default("info"), desc: "Least level that is logged" },
});

export type GuestAgentOptions = OptionValues<typeof guestAgentOptions.table>;
