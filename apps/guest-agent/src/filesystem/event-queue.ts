import { Code, ConnectError } from "@connectrpc/connect";
import { assert } from "@roost/kit";
import type { EventType } from "@roost/contract/gen/filesystem/filesystem_pb.js";

import type { DiskPath } from "./disk-path.ts";

export interface WatchEvent {
  /** relative to the watched folder; "." is the folder itself */
  readonly name: string;
  readonly type: EventType;
  /** absolute, as the disk has it */
  readonly path: DiskPath;
}

/** Events that wait for one client; about 5 MiB. Above it the watch ends with an error: a gap is never silent. */
export const queuedEventsMax = 32_768;

/** `"idle"` when nothing came for the time asked, `"end"` when nothing will. */
export type NextEvent = WatchEvent | "idle" | "end";

/**
 * Events on their way from the kernel to one client. Bounded; ends by `end()` once what waits is read, or by `fail()`
 * at once: after a loss, the rest would only mislead.
 */
export class EventQueue {
  readonly #lengthMax: number;
  #events: WatchEvent[] = [];
  /** index of the first event not yet read: shifting a long array is slow */
  #head = 0;
  #failure: ConnectError | undefined;
  #ended = false;
  #wake: (() => void) | undefined;

  constructor(lengthMax: number = queuedEventsMax) {
    this.#lengthMax = lengthMax;
  }

  get isOpen(): boolean {
    return !this.#ended && this.#failure === undefined;
  }

  get length(): number {
    return this.#events.length - this.#head;
  }

  /** The same event twice in a row, not yet read, is one: the kernel's own rule (inotify(7)). */
  push(event: WatchEvent): void {
    if (!this.isOpen) return;
    const last = this.length === 0 ? undefined : this.#events.at(-1);
    if (last !== undefined && last.type === event.type && last.name === event.name) return;
    if (this.length >= this.#lengthMax) {
      this.fail(new ConnectError(`events were lost: more than ${this.#lengthMax} waited to be read; watch again`, Code.ResourceExhausted));
      return;
    }
    this.#events.push(event);
    this.#wake?.();
  }

  fail(error: ConnectError): void {
    if (!this.isOpen) return;
    this.#failure = error;
    this.#events = [];
    this.#head = 0;
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  /** The next event, waiting for it up to `idleMs`. An aborted `signal` is an end. Throws the failure. */
  async next(idleMs: number, signal: AbortSignal): Promise<NextEvent> {
    assert(this.#wake === undefined, "one reader");
    if (this.#failure === undefined && this.length === 0 && !this.#ended && !signal.aborted) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(() => wake(), idleMs);
        const wake = () => {
          clearTimeout(timer);
          signal.removeEventListener("abort", wake);
          resolve();
        };
        signal.addEventListener("abort", wake, { once: true });
        this.#wake = wake;
      });
      this.#wake = undefined;
    }
    if (this.#failure !== undefined) throw this.#failure;
    if (signal.aborted) return "end";
    return this.#shift() ?? (this.#ended ? "end" : "idle");
  }

  /** Everything that waits. Throws the failure, each time. */
  drain(): WatchEvent[] {
    if (this.#failure !== undefined) throw this.#failure;
    const events = this.#head === 0 ? this.#events : this.#events.slice(this.#head);
    this.#events = [];
    this.#head = 0;
    return events;
  }

  #shift(): WatchEvent | undefined {
    const event = this.#events[this.#head];
    if (event === undefined) return undefined;
    this.#head += 1;
    if (this.#head > 1024 && this.#head * 2 > this.#events.length) {
      this.#events = this.#events.slice(this.#head);
      this.#head = 0;
    }
    return event;
  }
}
