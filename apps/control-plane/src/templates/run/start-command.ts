import { PlatformError } from "@roost/contract";
import { minute, nap, second, type Logger } from "@roost/kit";

import type { Guest } from "../../guest/guest.ts";
import { isSandboxLost } from "./failures.ts";
import { runInGuest, shellCommand, type GuestCommand } from "./guest-command.ts";
import { exitText } from "./run-step.ts";

/** Longest a start command may take to be ready in `ms`: the longest a create waits for a host */
export const readyTimeoutMs = 5 * minute;
/** Wait before the ready command is tried again in `ms`; it grows from the first to the last */
const retryMsMin = 100;
const retryMsMax = 1 * second;
/** How long a start command without a ready command is looked at in `ms`: one that cannot start ends at once */
const settleMs = 1 * second;
/** Its name among the processes of its sandbox */
const startTag = "start-command";

export interface StartedBy {
  readonly user: string;
  readonly workdir: string;
  readonly envs: Readonly<Record<string, string>>;
  readonly startCommand: string;
  readonly readyCommand: string;
}

export interface StartOptions {
  /** Ends the waiting */
  readonly signal: AbortSignal;
  readonly log: Logger;
  /** What both commands print */
  readonly onLine?: (line: string) => Promise<void>;
}

/**
 * Starts what is to run in a template's sandboxes, and resolves when its ready command has exited with 0. The start command runs on; its output is read for as long as its sandbox runs.
 * Throws `build_failed` when it ends with another exit code than 0, or is not ready in time, with what both said last.
 */
export async function startAndAwait(guest: Guest, defaults: StartedBy, options: StartOptions): Promise<void> {
  const { signal, log } = options;
  const as = { user: defaults.user, workdir: defaults.workdir, envs: defaults.envs };
  const ended = new AbortController();
  if (defaults.startCommand !== "") {
    const command = { ...shellCommand(defaults.startCommand, as), tag: startTag };
    void follow(guest, command, defaults.startCommand, options).then((failure) => {
      if (failure !== undefined) ended.abort(failure);
    });
  }
  if (defaults.readyCommand === "") {
    if (defaults.startCommand !== "") await nap(settleMs, AbortSignal.any([signal, ended.signal]));
    signal.throwIfAborted();
    return ended.signal.throwIfAborted();
  }
  const timeUp = AbortSignal.timeout(readyTimeoutMs);
  const waiting = AbortSignal.any([signal, ended.signal, timeUp]);
  let last = "it has not answered yet";
  for (let retryMs = retryMsMin; ; retryMs = Math.min(2 * retryMs, retryMsMax)) {
    try {
      const end = await runInGuest(guest, shellCommand(defaults.readyCommand, as), { signal: waiting, log });
      if (end.exitCode === 0) return;
      last = exitText(end);
    } catch (error) {
      if (!waiting.aborted) throw error;
    }
    await nap(retryMs, waiting);
    signal.throwIfAborted();
    ended.signal.throwIfAborted();
    if (timeUp.aborted) {
      const message = `the ready command '${defaults.readyCommand}' did not exit with 0 within ${readyTimeoutMs / second} s: ${last}`;
      throw new PlatformError("build_failed", message);
    }
  }
}

/** Reads what the start command prints until its sandbox is gone; resolves with why it ended, when that is a failure. */
async function follow(
  guest: Guest,
  command: GuestCommand,
  line: string,
  { log, onLine }: StartOptions,
): Promise<PlatformError | undefined> {
  const failed = (why: string) => new PlatformError("build_failed", `the start command '${line}' ended: ${why}`);
  try {
    // Not under the caller's signal: the command outlives whoever waited for it
    const end = await runInGuest(guest, command, {
      signal: new AbortController().signal,
      log,
      ...(onLine === undefined ? {} : { onLine }),
    });
    return end.exitCode === 0 ? undefined : failed(exitText(end));
  } catch (error) {
    log.debug({ err: error }, "no longer following a start command");
    if (isSandboxLost(error)) return error;
    return failed(error instanceof PlatformError ? error.message : "it could not be followed");
  }
}
