import { Code, ConnectError } from "@connectrpc/connect";
import { KiB } from "@roost/kit";

import type { ExitStatus } from "./exit-status.ts";

export type OutputKind = "stdout" | "stderr" | "pty";

export type OutputItem =
  | { readonly kind: OutputKind; readonly bytes: Uint8Array }
  | { readonly kind: "end"; readonly exit: ExitStatus }
  /** nothing happened for the time asked */
  | { readonly kind: "idle" };

/** What a subscriber may have waiting in `bytes`; above it the process is slowed down, since its pipe is no longer read. */
export const queuedBytesMax = 256 * KiB;

/** Output kept in `bytes` while nobody listens; older output goes. Handed to who connects after the end. */
export const unheardBytesMax = 64 * KiB;

/** A subscriber whose queue stays full for this long in `ms` while others wait for it is cut. */
export const stallTimeoutMs = 30_000;

/** How the source of the output is slowed down. */
export interface OutputSource {
  pause(): void;
  resume(): void;
}

/**
 * Hands the output of one process to all who listen.
 *
 * Nothing is dropped while somebody listens: the slowest subscriber decides, by pausing the source. Somebody stuck
 * cannot hold up the others for ever: they are cut, with an error that says so.
 */
export class OutputHub {
  readonly #source: OutputSource;
  readonly #stallTimeoutMs: number;
  readonly #subscriptions = new Set<Subscription>();
  #unheard: (OutputItem & { readonly bytes: Uint8Array })[] = [];
  #unheardBytes = 0;
  #exit: ExitStatus | undefined;
  #paused = false;

  constructor(source: OutputSource, options: { readonly stallTimeoutMs?: number } = {}) {
    this.#source = source;
    this.#stallTimeoutMs = options.stallTimeoutMs ?? stallTimeoutMs;
  }

  get paused(): boolean {
    return this.#paused;
  }

  /** Output from now on, then the end. Of an ended process: what nobody heard, then the end. */
  subscribe(): Subscription {
    const subscription = new Subscription({
      changed: () => this.#balance(),
      left: () => {
        this.#subscriptions.delete(subscription);
        this.#balance();
      },
    });
    if (this.#exit === undefined) {
      this.#forgetUnheard();
      this.#subscriptions.add(subscription);
      this.#balance(); // somebody stuck holds up one more now
    } else {
      for (const item of this.#unheard) subscription.offer(item);
      subscription.offer({ kind: "end", exit: this.#exit });
    }
    return subscription;
  }

  push(kind: OutputKind, bytes: Uint8Array): void {
    const item = { kind, bytes } as const;
    if (this.#subscriptions.size === 0) this.#keepUnheard(item);
    for (const subscription of this.#subscriptions) subscription.offer(item);
    this.#balance();
  }

  /** After the last output. Subscribers get it behind their data. */
  end(exit: ExitStatus): void {
    this.#exit = exit;
    for (const subscription of this.#subscriptions) {
      subscription.clearStall();
      subscription.offer({ kind: "end", exit });
    }
    this.#subscriptions.clear();
  }

  #keepUnheard(item: OutputItem & { readonly bytes: Uint8Array }): void {
    this.#unheard.push(item);
    this.#unheardBytes += item.bytes.length;
    while (this.#unheardBytes > unheardBytesMax) {
      const oldest = this.#unheard.shift();
      if (oldest === undefined) break;
      this.#unheardBytes -= oldest.bytes.length;
    }
  }

  #forgetUnheard(): void {
    this.#unheard = [];
    this.#unheardBytes = 0;
  }

  /** Pauses or resumes the source as the fullest queue demands, and watches for who is stuck. */
  #balance(): void {
    const full = [...this.#subscriptions].filter((subscription) => subscription.queuedBytes >= queuedBytesMax);
    for (const subscription of this.#subscriptions) {
      if (full.includes(subscription) && this.#subscriptions.size > 1) subscription.startStall(this.#stallTimeoutMs);
      else subscription.clearStall();
    }
    if (full.length > 0 === this.#paused) return;
    this.#paused = full.length > 0;
    if (this.#paused) this.#source.pause();
    else this.#source.resume();
  }
}

interface SubscriptionOwner {
  readonly changed: () => void;
  readonly left: () => void;
}

/** One listener's queue. */
export class Subscription {
  readonly #owner: SubscriptionOwner;
  #items: OutputItem[] = [];
  #queuedBytes = 0;
  #failure: Error | undefined;
  #left = false;
  #wake: (() => void) | undefined;
  #stall: NodeJS.Timeout | undefined;

  constructor(owner: SubscriptionOwner) {
    this.#owner = owner;
  }

  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /** The next item; `idle` when none came for `idleMs`. Throws what `leave` was given. */
  async next(idleMs: number): Promise<OutputItem> {
    for (let waited = false; ; waited = true) {
      if (this.#failure !== undefined) throw this.#failure;
      const item = this.#items.shift();
      if (item !== undefined) {
        this.#take(item);
        return item;
      }
      if (waited) return { kind: "idle" };
      await this.#wait(idleMs);
    }
  }

  /** Stops listening; a waiting or later `next` throws `why`. Calling it again does nothing. */
  leave(why: Error): void {
    if (this.#left) return;
    this.#left = true;
    this.#failure = why;
    this.#items = [];
    this.#queuedBytes = 0;
    this.clearStall();
    this.#owner.left();
    this.#wake?.();
  }

  offer(item: OutputItem): void {
    if (this.#left) return;
    this.#items.push(item);
    if ("bytes" in item) this.#queuedBytes += item.bytes.length;
    this.#wake?.();
  }

  startStall(timeoutMs: number): void {
    this.#stall ??= setTimeout(() => {
      this.leave(new ConnectError("reading too slowly: others wait for the same output", Code.ResourceExhausted));
    }, timeoutMs);
  }

  clearStall(): void {
    clearTimeout(this.#stall);
    this.#stall = undefined;
  }

  #take(item: OutputItem): void {
    if (!("bytes" in item)) return;
    const wasFull = this.#queuedBytes >= queuedBytesMax;
    this.#queuedBytes -= item.bytes.length;
    if (wasFull && this.#queuedBytes < queuedBytesMax) this.#owner.changed();
  }

  async #wait(idleMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      timer = setTimeout(resolve, idleMs);
    });
    clearTimeout(timer);
    this.#wake = undefined;
  }
}
