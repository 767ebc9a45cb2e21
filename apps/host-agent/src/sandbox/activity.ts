import { assert } from "@roost/kit";

/** setTimeout counts in 32 bits; longer waits are taken in parts of this many `ms`. */
const timerMsMax = 2 ** 31 - 1;

export interface ActivityOptions {
  /** Inactivity in `s` after which `onInactive` is called; 0 = never */
  readonly timeoutSec: number;
  readonly timeLastActiveMs: number;
  readonly onInactive: () => void;
  /** The inactivity timer starts with at least this much left, in `ms` */
  readonly graceMs?: number;
}

/**
 * When a sandbox was last used, and one timer that tells when that is too long ago. An open tunnel is use for as long as
 * it is open. No polling: the timer is set for the instant at which, as things are, the sandbox will have been inactive for
 * long enough; activity in between only moves the instant, and the timer when it fires sees that and sets itself anew.
 */
export class Activity {
  readonly #onInactive: () => void;
  #timeoutSec: number;
  #timeLastActiveMs: number;
  #notBeforeMs: number;
  #tunnelCount = 0;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: ActivityOptions) {
    this.#onInactive = options.onInactive;
    this.#timeoutSec = options.timeoutSec;
    this.#timeLastActiveMs = options.timeLastActiveMs;
    this.#notBeforeMs = Date.now() + (options.graceMs ?? 0);
    this.#arm();
  }

  get timeLastActiveMs(): number {
    return this.#tunnelCount > 0 ? Date.now() : this.#timeLastActiveMs;
  }

  get tunnelCount(): number {
    return this.#tunnelCount;
  }

  /** `ms` until it will have been inactive for long enough; undefined when it will not, as things are. */
  get remainingMs(): number | undefined {
    if (this.#closed || this.#timeoutSec === 0 || this.#tunnelCount > 0) return undefined;
    const now = Date.now();
    // A clock that was set back must not make a sandbox look active for longer than its timeout
    const lastActiveMs = Math.min(this.#timeLastActiveMs, now);
    return Math.max(lastActiveMs + this.#timeoutSec * 1_000, this.#notBeforeMs) - now;
  }

  touch(): void {
    this.#timeLastActiveMs = Date.now();
    this.#arm();
  }

  tunnelOpened(): void {
    this.#tunnelCount += 1;
    this.touch();
  }

  tunnelClosed(): void {
    assert(this.#tunnelCount > 0, "a tunnel is opened before it is closed");
    this.#tunnelCount -= 1;
    this.touch();
  }

  /** The timer starts anew with the new length: asking for a timeout is activity. */
  setTimeoutSec(timeoutSec: number): void {
    this.#timeoutSec = timeoutSec;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#notBeforeMs = 0;
    this.touch();
  }

  /** The timer does not fire for so many `ms`, whatever its length. */
  postpone(waitMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#notBeforeMs = Date.now() + waitMs;
    this.#arm();
  }

  /** The timer never fires again. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #arm(): void {
    if (this.#timer !== undefined) return; // fires no later than needed, and looks again then
    const remainingMs = this.remainingMs;
    if (remainingMs === undefined) return;
    this.#timer = setTimeout(() => this.#fire(), Math.min(Math.max(remainingMs, 0), timerMsMax));
    this.#timer.unref();
  }

  #fire(): void {
    this.#timer = undefined;
    const remainingMs = this.remainingMs;
    if (remainingMs === undefined) return; // a tunnel is open: its end arms the timer
    if (remainingMs > 0) return this.#arm();
    this.#onInactive();
  }
}
