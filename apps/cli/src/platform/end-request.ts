import { rmSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { isAlive, poll, writeFileDurably, type ProcessIdentity } from "@roost/kit";
import { z } from "zod";

import { CliError } from "../failure.ts";

/** Time an orderly end may take in `ms`: requests in flight are finished, sandboxes ended if asked. */
const endTimeoutMs = 120_000;
/** Time that pausing all sandboxes may take in `ms`: hundreds of them, each with hundreds of MiB, on a slow disk */
export const pauseTimeoutMs = 15 * 60_000;

/** What becomes of the sandboxes when the platform ends: they go on, are paused, or end. */
export const sandboxFates = ["leave", "pause", "stop"] as const;
export type SandboxFate = (typeof sandboxFates)[number];

/** What `roost down` leaves for the process it signals: a signal alone cannot say what should become of the sandboxes. */
const endRequestSchema = z.object({ pid: z.int(), startTicks: z.string(), sandboxes: z.enum(sandboxFates) });

const endRequestPath = (dir: string) => join(dir, "end-request.json");

/** Ends the platform in order and waits until it is gone. Asking again forces. */
export async function requestEnd(
  dir: string,
  identity: ProcessIdentity,
  options: { readonly sandboxes: SandboxFate; readonly signal: AbortSignal; readonly onWait?: () => void },
): Promise<void> {
  const { sandboxes } = options;
  try {
    if (sandboxes !== "leave") {
      await writeFileDurably(endRequestPath(dir), JSON.stringify({ ...identity, sandboxes }), { mode: 0o600 });
    }
    if (await isAlive(identity)) process.kill(identity.pid, "SIGTERM");
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const isForbidden = code === "EPERM" || code === "EACCES";
    throw new CliError(`cannot end the platform (pid ${identity.pid}): ${message}`, {
      ...(isForbidden ? { hint: "run as the user who started it, usually root" } : {}),
      cause: error,
    });
  }
  const isGone = async () => {
    options.onWait?.();
    return (await isAlive(identity)) ? undefined : true;
  };
  const timeoutMs = endTimeoutMs + (sandboxes === "pause" ? pauseTimeoutMs : 0);
  const wait = { what: `end of the platform (pid ${identity.pid})`, timeoutMs, intervalMs: 50, signal: options.signal };
  await poll(wait, isGone);
}

/** What should become of the sandboxes at the end that was just signalled, as asked for this very process; undefined: nobody asked. */
export function takeEndRequest(dir: string, self: ProcessIdentity): SandboxFate | undefined {
  try {
    const request = endRequestSchema.parse(JSON.parse(readFileSync(endRequestPath(dir), "utf8")));
    rmSync(endRequestPath(dir), { force: true });
    const isForUs = request.pid === self.pid && request.startTicks === self.startTicks;
    return isForUs ? request.sandboxes : undefined;
  } catch {
    return undefined; // no request: an ordinary end
  }
}
