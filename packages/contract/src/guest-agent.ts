import { z } from "zod";

import { envsSchema } from "./sandboxes.ts";

/**
 * HTTP surface of the guest agent beside its Connect services.
 * `/health`, `/init`, `/prepare`, `/metrics`, `/envs`, `/files`; see apps/guest-agent/README.md.
 */

/** Header that carries the sandbox's access token. */
export const accessTokenHeader = "x-access-token";

/** Of one certificate with ten names that it is limited to, several times what it takes */
const guestCaBundleLengthMax = 16 * 1024;
const certificatePattern = /^(?:-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n)?$/;

/** `POST /init`: the host tells the guest who it is. After the first one it must carry the same token as header. */
export const guestInitSchema = z.object({
  accessToken: z.string().min(1).max(512).optional(),
  envVars: envsSchema.optional(),
  /** RFC 3339 instant; the guest's clock is set when it differs */
  timestamp: z.iso.datetime({ offset: true }).optional(),
  defaultUser: z.string().max(32).optional(),
  defaultWorkdir: z.string().max(4095).optional(),
  /** Sandbox id: ROOST_SANDBOX_ID and E2B_SANDBOX_ID of every process */
  sandboxId: z.string().max(64).optional(),
  templateId: z.string().max(128).optional(),
  hostname: z
    .string()
    .max(63)
    .regex(/^[a-z0-9-]+$/)
    .optional(),
  /** 32 hex digits for /etc/machine-id */
  machineId: z
    .string()
    .regex(/^[0-9a-f]{32}$/)
    .optional(),
  /** Fresh random bytes for the kernel's generator, which is reseeded with them; the guest's generation id changes */
  entropy: z.base64().max(4096).optional(),
  /** Certificate (PEM) that programs in the guest are to trust: whose requests the host opens on their way out. "" = none. An `/init` that says a sandbox id and not this means none, too */
  caBundle: z.string().max(guestCaBundleLengthMax).regex(certificatePattern, "is no certificate in PEM form").optional(),
});
export type GuestInit = z.infer<typeof guestInitSchema>;

/**
 * Header of the answer to `/init`: the guest's clock in Unix `ms` when it was written. In a guest that was just restored the way of the
 * timestamp to the clock takes 50 to 500 ms; a host that sees it was late sends another `/init`, with nothing but a timestamp.
 */
export const guestClockHeader = "x-roost-clock";

/** `POST /prepare`: makes the guest ready for an image to be taken of it, or to be waited for. Carries the token, if there is one. */
export const guestPrepareSchema = z.object({
  /** The first requests of a sandbox are made once: `template` before a memory image is taken, `vm` in a restored VM that waits for its sandbox */
  warmUp: z.enum(["template", "vm"]).optional(),
  /** Token, environment and what the disk holds of an identity are forgotten: for a guest that is stopped afterwards, not for one that goes on */
  forTemplate: z.boolean().optional(),
  /** All file systems are written to the virtual disk */
  sync: z.boolean().optional(),
});
export type GuestPrepare = z.infer<typeof guestPrepareSchema>;

/** `GET /metrics` */
export const guestMetricsSchema = z.object({
  /** Unix `s` */
  ts: z.number(),
  cpu_count: z.number(),
  /** 0 to 100 over all vCPUs, since the call before */
  cpu_used_pct: z.number(),
  mem_total: z.number(),
  mem_used: z.number(),
  mem_cache: z.number(),
  disk_used: z.number(),
  disk_total: z.number(),
});
export type GuestMetrics = z.infer<typeof guestMetricsSchema>;

/** Signal names as an `EndEvent` writes them in its status, by number. */
export const signalNames: Readonly<Record<number, string>> = {
  1: "hangup",
  2: "interrupt",
  3: "quit",
  4: "illegal instruction",
  5: "trace/breakpoint trap",
  6: "aborted",
  7: "bus error",
  8: "floating point exception",
  9: "killed",
  10: "user defined signal 1",
  11: "segmentation fault",
  12: "user defined signal 2",
  13: "broken pipe",
  14: "alarm clock",
  15: "terminated",
};

/** The shell's exit code of an `EndEvent`: 128 + signal number when a signal ended the process. */
export function shellExitCode(end: { readonly exitCode: number; readonly exited: boolean; readonly status: string }): number {
  if (end.exited) return end.exitCode;
  const name = /^signal: (?:signal (?<number>\d+)|(?<name>.+?))(?: \(core dumped\))?$/.exec(end.status)?.groups;
  const known = Object.entries(signalNames).find(([, text]) => text === name?.["name"])?.[0];
  return 128 + Number(known ?? name?.["number"] ?? 0);
}
