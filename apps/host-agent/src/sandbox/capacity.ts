import { readFile } from "node:fs/promises";

import { PlatformError, vmOverheadMib } from "@roost/contract";
import { assert } from "@roost/kit";

/** `Retry-After` of a full host in `s`: sandboxes end all the time */
const retryAfterSec = 10;

/**
 * Time in `ms` for which a full host lets who asks wait, counted anew whenever somebody leaves: in a burst of short-lived sandboxes that is each moment, and who asks a host that
 * stays full is soon told.
 */
const roomWaitMs = 5_000;
/** Longest such wait in `ms`, however many leave: callers give up after a minute, and a start takes its time, too */
const roomWaitMaxMs = 40_000;

/** Who waits for room, and how to let it look again. */
interface Waiting {
  readonly look: () => void;
  /** Somebody left: it may wait a while longer */
  readonly wait: () => void;
}

export interface CapacityLimits {
  readonly sandboxCountMax: number;
  /** Memory all sandboxes together may reserve, in `MiB` */
  readonly memoryMib: number;
}

/** Who holds how much of the host. Reserved before anything is made, released when nothing is left. */
export class Capacity {
  readonly limits: CapacityLimits;
  readonly #held = new Map<string, number>();
  /** First come, first served: a small one does not pass a large one for ever */
  readonly #waiting: Waiting[] = [];
  readonly #roomWaitMs: number;
  #memoryHeldMib = 0;

  constructor(limits: CapacityLimits, options: { readonly roomWaitMs?: number } = {}) {
    this.limits = limits;
    this.#roomWaitMs = options.roomWaitMs ?? roomWaitMs;
  }

  get sandboxCount(): number {
    return this.#held.size;
  }

  get memoryFreeMib(): number {
    return Math.max(0, this.limits.memoryMib - this.#memoryHeldMib);
  }

  /** Throws `capacity_exhausted` with the numbers when there is no room. */
  reserve(sandboxId: string, memoryMib: number): void {
    if (this.#held.size >= this.limits.sandboxCountMax) {
      throw new PlatformError(
        "capacity_exhausted",
        `this host holds ${this.#held.size} of at most ${this.limits.sandboxCountMax} sandboxes; end one or try again later`,
        { retryAfterSec },
      );
    }
    const neededMib = memoryMib + vmOverheadMib;
    if (neededMib > this.memoryFreeMib) {
      throw new PlatformError(
        "capacity_exhausted",
        `the sandbox needs ${neededMib} MiB of memory and this host has ${this.memoryFreeMib} MiB left; ask for less, end a sandbox, or try again later`,
        { retryAfterSec },
      );
    }
    this.hold(sandboxId, memoryMib);
  }

  /**
   * As `reserve`, but waits a while for room. Who holds already keeps it; what is more than the whole host is refused at once. Rejects with the signal's reason, and
   * holds nothing then.
   */
  async reserveSoon(sandboxId: string, memoryMib: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    if (this.#held.has(sandboxId)) return;
    if (this.#waiting.length === 0 || this.#isTooLarge(memoryMib)) {
      const failure = this.#tryReserve(sandboxId, memoryMib);
      if (failure === undefined) return;
      if (this.#isTooLarge(memoryMib)) throw failure;
    }
    const giveUpMs = performance.now() + roomWaitMaxMs;
    await new Promise<void>((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined;
      const settle = (outcome: () => void) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
        outcome();
      };
      const look = (isLast: boolean) => {
        const failure = this.#tryReserve(sandboxId, memoryMib);
        if (failure === undefined) settle(resolve);
        else if (isLast) settle(() => reject(failure));
      };
      const onTime = () => {
        look(true);
        this.#lookAgain();
      };
      const waiting: Waiting = {
        look: () => look(false),
        wait: () => {
          clearTimeout(timer);
          timer = setTimeout(onTime, Math.max(0, Math.min(this.#roomWaitMs, giveUpMs - performance.now())));
        },
      };
      const onAbort = () => {
        settle(() => reject(signal?.reason));
        this.#lookAgain();
      };
      this.#waiting.push(waiting);
      waiting.wait();
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  #isTooLarge(memoryMib: number): boolean {
    return memoryMib + vmOverheadMib > this.limits.memoryMib || this.limits.sandboxCountMax === 0;
  }

  #tryReserve(sandboxId: string, memoryMib: number): unknown {
    try {
      this.reserve(sandboxId, memoryMib);
      return undefined;
    } catch (error) {
      return error;
    }
  }

  #lookAgain(): void {
    for (let first = this.#waiting[0]; first !== undefined;) {
      first.look();
      const next = this.#waiting[0];
      first = next === first ? undefined : next; // it still waits, and so does everybody behind it
    }
  }

  /** For a sandbox that is there already: adopted, whatever the limits say now. */
  hold(sandboxId: string, memoryMib: number): void {
    assert(!this.#held.has(sandboxId), "a sandbox reserves once");
    this.#held.set(sandboxId, memoryMib + vmOverheadMib);
    this.#memoryHeldMib += memoryMib + vmOverheadMib;
  }

  /** What one holds becomes another's: nobody who waits comes between. */
  pass(from: string, to: string): void {
    const heldMib = this.#held.get(from);
    assert(heldMib !== undefined && !this.#held.has(to), "one who holds passes it to one who does not");
    this.#held.delete(from);
    this.#held.set(to, heldMib);
  }

  /** Idempotent. */
  release(sandboxId: string): void {
    this.#memoryHeldMib -= this.#held.get(sandboxId) ?? 0;
    if (!this.#held.delete(sandboxId)) return;
    this.#lookAgain();
    for (const waiting of this.#waiting) waiting.wait();
  }
}

/** Memory the kernel could hand out now without swapping, in `MiB`. */
export async function availableMemoryMib(): Promise<number> {
  const text = await readFile("/proc/meminfo", "latin1");
  const kib = /^MemAvailable:\s+(\d+) kB$/m.exec(text)?.[1];
  return Math.trunc(Number(kib ?? 0) / 1024);
}

/**
 * Rejects with `capacity_exhausted` when guests of so many `MiB` had better not start now: what is reserved is a promise, this is what the machine has. A guest takes
 * its memory as it uses it: a quarter must be there now, or the next minutes end badly.
 */
export async function checkAvailableMemory(
  memoryMib: number,
  options: { readonly reservedMib: number; readonly availableMib: () => Promise<number> },
): Promise<void> {
  const freeMib = await options.availableMib();
  const neededMib = Math.trunc(memoryMib / 4) + options.reservedMib;
  if (freeMib >= neededMib) return;
  throw new PlatformError("capacity_exhausted", "this host's memory is in use right now; end or pause a sandbox, or try again later", {
    detail: `${freeMib} MiB available, ${neededMib} MiB needed`,
    retryAfterSec: 10,
  });
}
