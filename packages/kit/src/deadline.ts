import { setTimeout as timerSleep } from "node:timers/promises";

/** A wait took longer than it may. `what` names the wait; `status` is what was last seen. */
export class DeadlineError extends Error {
  override readonly name = "DeadlineError";

  constructor(what: string, timeoutMs: number, status?: string) {
    super(`${what} did not happen within ${formatSeconds(timeoutMs)}${status === undefined ? "" : `; last seen: ${status}`}`);
  }
}

function formatSeconds(ms: number): string {
  return ms < 1_000 ? `${ms} ms` : `${(ms / 1_000).toFixed(ms % 1_000 === 0 ? 0 : 1)} s`;
}

/** Sleeps `ms`, or rejects at once when `signal` aborts. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  await timerSleep(ms, undefined, signal === undefined ? {} : { signal });
}

/** Sleeps `ms` or until `signal` aborts, whichever is first; never rejects. */
export async function nap(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await timerSleep(ms, undefined, { signal }).catch(() => undefined); // only an abort rejects, and it means "wake up"
}

/** `promise`, or a `DeadlineError` when it takes longer than `timeoutMs`. The work itself is not stopped. */
export async function withDeadline<T>(what: string, timeoutMs: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new DeadlineError(what, timeoutMs)), timeoutMs);
  });
  try {
    return await Promise.race([promise, deadline]);
  } finally {
    clearTimeout(timer);
  }
}

export interface PollOptions {
  /** What is waited for, as it reads in the error: "the guest agent's first answer". */
  readonly what: string;
  readonly timeoutMs: number;
  readonly intervalMs?: number;
  readonly signal?: AbortSignal;
}

/**
 * Asks `probe` until it answers something other than undefined. What a probe throws counts as "not yet" and
 * becomes the last status in the error.
 */
export async function poll<T>(options: PollOptions, probe: () => Promise<T | undefined> | T | undefined): Promise<T> {
  const end = performance.now() + options.timeoutMs;
  let status: string | undefined;
  for (;;) {
    options.signal?.throwIfAborted();
    try {
      const answer = await probe();
      if (answer !== undefined) return answer;
      status = undefined;
    } catch (error) {
      status = error instanceof Error ? error.message : String(error);
    }
    if (performance.now() >= end) throw new DeadlineError(options.what, options.timeoutMs, status);
    await sleep(options.intervalMs ?? 20, options.signal);
  }
}
