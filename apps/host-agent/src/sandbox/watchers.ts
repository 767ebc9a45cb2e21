import { PlatformError } from "@roost/contract";

import type { HostEvent } from "./host-events.ts";

/** Changes that may wait for one watcher; one that is further behind is cut and has to start over with a full listing. */
export const watcherQueueMax = 10_000;

export type WatchEvent<View> =
  | { readonly kind: "sandbox"; readonly view: View }
  | { readonly kind: "removed"; readonly sandboxId: string }
  | { readonly kind: "event"; readonly event: HostEvent };

interface Watcher<View> {
  readonly queue: WatchEvent<View>[];
  wake: () => void;
  overflowed: boolean;
}

export interface Subscription<View> {
  /** Yields undefined when there was no change for `keepAliveMs`; throws when the reader is too slow. */
  events(keepAliveMs: number): AsyncGenerator<WatchEvent<View> | undefined>;
  close(): void;
}

/** Who is told of changes. A slow watcher holds up nobody: its queue is bounded. */
export class Watchers<View> {
  readonly #watchers = new Set<Watcher<View>>();

  get count(): number {
    return this.#watchers.size;
  }

  publish(event: WatchEvent<View>): void {
    for (const watcher of this.#watchers) {
      if (watcher.queue.length >= watcherQueueMax) watcher.overflowed = true;
      else watcher.queue.push(event);
      watcher.wake();
    }
  }

  /** Begins to collect changes, to be read with `events`. Ends when `signal` aborts, or with `close`. */
  subscribe(signal: AbortSignal): Subscription<View> {
    const watcher: Watcher<View> = { queue: [], wake: () => undefined, overflowed: false };
    this.#watchers.add(watcher); // now, not at the first read: nothing that happens in between is missed
    return {
      events: (keepAliveMs) => this.#events(watcher, signal, keepAliveMs),
      close: () => void this.#watchers.delete(watcher),
    };
  }

  async *#events(watcher: Watcher<View>, signal: AbortSignal, keepAliveMs: number): AsyncGenerator<WatchEvent<View> | undefined> {
    const onAbort = () => watcher.wake();
    signal.addEventListener("abort", onAbort);
    try {
      while (!signal.aborted) {
        if (watcher.overflowed) {
          throw new PlatformError("host_unreachable", "this watcher was too slow and was cut; watch again", {
            detail: `more than ${watcherQueueMax} changes waited`,
          });
        }
        const event = watcher.queue.shift();
        if (event !== undefined) {
          yield event;
          continue;
        }
        let timer: NodeJS.Timeout | undefined;
        const woken = await new Promise<boolean>((resolve) => {
          watcher.wake = () => resolve(true);
          timer = setTimeout(() => resolve(false), keepAliveMs);
        });
        clearTimeout(timer);
        if (!woken) yield undefined;
      }
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }
}
