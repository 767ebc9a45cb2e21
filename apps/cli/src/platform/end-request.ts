import { rmSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { isAlive, poll, writeFileDurably, type ProcessIdentity } from "@roost/kit";
import { z } from "zod";

import { CliError } from "../failure.ts";

/** Time an orderly end may take in `ms`: requests in flight are finished, sandboxes ended if asked. */
const endTimeoutMs = 120_000;

/** What `roost down` leaves for the process it signals: a signal alone cannot say whether sandboxes should end, too. */
const endRequestSchema = z.object({ pid: z.int(), startTicks: z.string(), stopSandboxes: z.boolean() });

const endRequestPath = (dir: string) => join(dir, "end-request.json");

/** Ends the platform in order and waits until it is gone. Asking again forces. */
export async function requestEnd(
  dir: string,
  identity: ProcessIdentity,
  options: { readonly stopSandboxes: boolean; readonly signal: AbortSignal },
): Promise<void> {
  try {
    if (options.stopSandboxes) {
      await writeFileDurably(endRequestPath(dir), JSON.stringify({ ...identity, stopSandboxes: true }), { mode: 0o600 });
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
  const isGone = async () => ((await isAlive(identity)) ? undefined : true);
  const wait = { what: `end of the platform (pid ${identity.pid})`, timeoutMs: endTimeoutMs, intervalMs: 50, signal: options.signal };
  await poll(wait, isGone);
}

/** What the end that was just signalled should do, as asked for this very process. */
export function takeEndRequest(dir: string, self: ProcessIdentity): { readonly stopSandboxes: boolean } {
  try {
    const request = endRequestSchema.parse(JSON.parse(readFileSync(endRequestPath(dir), "utf8")));
    rmSync(endRequestPath(dir), { force: true });
    const isForUs = request.pid === self.pid && request.startTicks === self.startTicks;
    return { stopSandboxes: isForUs && request.stopSandboxes };
  } catch {
    return { stopSandboxes: false }; // no request: an ordinary end
  }
}
