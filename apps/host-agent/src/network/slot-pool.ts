import { PlatformError } from "@roost/contract";
import { assert, type Logger } from "@roost/kit";

/** Makes and removes slots by number. */
export interface SlotMaker {
  make(index: number): Promise<void>;
  remove(index: number): Promise<void>;
}

/** Wait before the background tries again to prepare slots after a failure, in `ms` */
const refillPauseMs = 5_000;

/**
 * Slots by number: some free, some prepared ahead of need, some lent.
 *
 * A slot that comes back is removed, not cleaned: a new namespace has no connections, counters or addresses of the last
 * guest, which no cleaning could promise. Its number can be used again when that succeeded; a number whose removal failed
 * is never lent again by this process (the sweep of the next one tries anew).
 */
export class SlotPool {
  readonly #maker: SlotMaker;
  readonly #log: Logger;
  readonly #preparedMax: number;
  readonly #free: number[] = [];
  readonly #prepared: number[] = [];
  readonly #lent = new Set<number>();
  readonly #removing = new Map<number, Promise<void>>();
  #refilling: Promise<void> | undefined;
  #refillTimer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: {
    readonly maker: SlotMaker;
    readonly log: Logger;
    readonly slotCount: number;
    readonly preparedMax: number;
    readonly inUse: readonly number[];
  }) {
    this.#maker = options.maker;
    this.#log = options.log;
    this.#preparedMax = options.preparedMax;
    for (const index of options.inUse) this.#lent.add(index);
    // Descending: pop() lends the lowest number first, which keeps names short and logs readable
    for (let index = options.slotCount - 1; index >= 0; index -= 1) if (!this.#lent.has(index)) this.#free.push(index);
  }

  get preparedCount(): number {
    return this.#prepared.length;
  }

  async acquire(signal?: AbortSignal): Promise<number> {
    signal?.throwIfAborted();
    assert(!this.#closed, "no slot is asked for after close");
    const prepared = this.#prepared.shift();
    if (prepared !== undefined) {
      this.#lent.add(prepared);
      this.refill();
      return prepared;
    }
    const index = this.#free.pop() ?? (await this.#nextRemoved(signal));
    this.#lent.add(index);
    try {
      await this.#maker.make(index);
      signal?.throwIfAborted();
      return index;
    } catch (error) {
      await this.release(index);
      throw error;
    }
  }

  /** All numbers are lent, but some of them are on their way back. */
  async #nextRemoved(signal?: AbortSignal): Promise<number> {
    while (this.#removing.size > 0) {
      await Promise.race(this.#removing.values());
      signal?.throwIfAborted();
      const index = this.#free.pop();
      if (index !== undefined) return index;
    }
    throw new PlatformError("capacity_exhausted", "this host has no network slot left; end a sandbox or try again later", {
      detail: `${this.#lent.size} slots are lent`,
      retryAfterSec: 5,
    });
  }

  async release(index: number): Promise<void> {
    const underWay = this.#removing.get(index);
    if (underWay !== undefined) return underWay;
    if (!this.#lent.has(index)) return;
    const removal = this.#remove(index);
    this.#removing.set(index, removal);
    await removal;
  }

  async #remove(index: number): Promise<void> {
    try {
      await this.#maker.remove(index);
      this.#free.push(index);
    } catch (error) {
      this.#log.error({ err: error, slot: index }, "a network slot could not be removed; its number is not used again");
      throw error;
    } finally {
      this.#lent.delete(index);
      this.#removing.delete(index);
      this.refill();
    }
  }

  /** Prepares slots in the background, one after the other, until enough are ready. */
  refill(): void {
    if (this.#closed || this.#refilling !== undefined || this.#refillTimer !== undefined) return;
    if (this.#prepared.length >= this.#preparedMax || this.#free.length === 0) return;
    this.#refilling = this.#refillLoop().finally(() => {
      this.#refilling = undefined;
    });
  }

  async #refillLoop(): Promise<void> {
    while (!this.#closed && this.#prepared.length < this.#preparedMax) {
      const index = this.#free.pop();
      if (index === undefined) return;
      try {
        await this.#maker.make(index);
        this.#prepared.push(index);
      } catch (error) {
        this.#log.warn({ err: error, slot: index }, "a network slot could not be prepared; will try again");
        await this.#maker.remove(index).catch(() => undefined); // half made; what stays shows in the next try
        this.#free.push(index);
        this.#refillTimer = setTimeout(() => {
          this.#refillTimer = undefined;
          this.refill();
        }, refillPauseMs).unref();
        return;
      }
    }
  }

  /** Ends the background work; removes the prepared slots, and with `removeLent` the lent ones too. */
  async close(options: { readonly removeLent: boolean }): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#refillTimer);
    await this.#refilling;
    await Promise.allSettled(this.#removing.values());
    const indexes = [...this.#prepared.splice(0), ...(options.removeLent ? this.#lent : [])];
    for (const index of indexes) await this.#maker.remove(index);
  }
}
