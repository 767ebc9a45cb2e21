import { SeededRandom } from "@roost/testing";
import { Code } from "@connectrpc/connect";
import { beforeEach, describe, expect, test, vi } from "vitest";

import type { ExitStatus } from "./exit-status.ts";
import { OutputHub, queuedBytesMax, unheardBytesMax, type OutputItem, type Subscription } from "./output-hub.ts";

const exit: ExitStatus = { exitCode: 0, exited: true, status: "exit status 0", error: undefined };
const forever = 2 ** 30;

class Source {
  paused = false;
  switches = 0;
  pause() {
    expect(this.paused).toBe(false);
    this.paused = true;
    this.switches += 1;
  }
  resume() {
    expect(this.paused).toBe(true);
    this.paused = false;
    this.switches += 1;
  }
}

let source: Source;
let hub: OutputHub;
beforeEach(() => {
  source = new Source();
  hub = new OutputHub(source);
});

const text = (item: OutputItem) => ("bytes" in item ? Buffer.from(item.bytes).toString() : item.kind);
const push = (value: string) => hub.push("stdout", Buffer.from(value));
async function readAll(subscription: Subscription): Promise<string[]> {
  const items: string[] = [];
  for (;;) {
    const item = await subscription.next(forever);
    items.push(text(item));
    if (item.kind === "end") return items;
  }
}

describe("delivery", () => {
  test("everybody gets everything from their subscription on, then the end", async () => {
    const first = hub.subscribe();
    push("a");
    const second = hub.subscribe();
    push("b");
    hub.end(exit);
    expect(await readAll(first)).toEqual(["a", "b", "end"]);
    expect(await readAll(second)).toEqual(["b", "end"]);
  });

  test("a waiting reader is woken", async () => {
    const subscription = hub.subscribe();
    const next = subscription.next(forever);
    push("x");
    expect(text(await next)).toBe("x");
  });

  test("who waits too long hears `idle`, and goes on", async () => {
    const subscription = hub.subscribe();
    expect(await subscription.next(1)).toEqual({ kind: "idle" });
    push("x");
    expect(text(await subscription.next(forever))).toBe("x");
  });

  test("after the end one gets what nobody heard, its last part only, and the end", async () => {
    const left = hub.subscribe();
    push("heard");
    left.leave(new Error("gone"));
    push("x".repeat(unheardBytesMax));
    push("tail");
    hub.end(exit);
    expect(await readAll(hub.subscribe())).toEqual(["tail", "end"]);
    expect(await readAll(hub.subscribe())).toEqual(["tail", "end"]);
  });

  test("output that somebody heard is not repeated after the end", async () => {
    const listener = hub.subscribe();
    push("heard");
    hub.end(exit);
    expect(await readAll(listener)).toEqual(["heard", "end"]);
    expect(await readAll(hub.subscribe())).toEqual(["end"]);
  });

  test("leaving ends a wait with its reason, once", async () => {
    const subscription = hub.subscribe();
    const next = subscription.next(forever);
    subscription.leave(new Error("first"));
    subscription.leave(new Error("second"));
    await expect(next).rejects.toThrow("first");
    await expect(subscription.next(1)).rejects.toThrow("first");
  });
});

describe("back-pressure", () => {
  test("a full queue pauses the source; reading resumes it", async () => {
    const subscription = hub.subscribe();
    push("x".repeat(queuedBytesMax));
    expect(source.paused).toBe(true);
    await subscription.next(forever);
    expect(source.paused).toBe(false);
  });

  test("the slowest of several decides", async () => {
    const slow = hub.subscribe();
    const fast = hub.subscribe();
    push("x".repeat(queuedBytesMax));
    await fast.next(forever);
    expect(source.paused).toBe(true);
    await slow.next(forever);
    expect(source.paused).toBe(false);
  });

  test("who leaves no longer holds the source", () => {
    const subscription = hub.subscribe();
    push("x".repeat(queuedBytesMax));
    subscription.leave(new Error("gone"));
    expect(source.paused).toBe(false);
  });

  test("nobody listening never pauses", () => {
    for (let round = 0; round < 20; round += 1) push("x".repeat(queuedBytesMax));
    expect(source.switches).toBe(0);
  });

  test("who is stuck while others wait is cut, with an error that says why; alone one may take all the time", async () => {
    vi.useFakeTimers();
    try {
      hub = new OutputHub(source, { stallTimeoutMs: 1000 });
      const stuck = hub.subscribe();
      push("x".repeat(queuedBytesMax));
      await vi.advanceTimersByTimeAsync(60_000);
      expect(source.paused).toBe(true);
      hub.subscribe().leave(new Error("gone"));
      await vi.advanceTimersByTimeAsync(60_000);
      expect(stuck.queuedBytes).toBe(queuedBytesMax);
      const another = hub.subscribe();
      await vi.advanceTimersByTimeAsync(1001);
      await expect(stuck.next(1)).rejects.toMatchObject({ code: Code.ResourceExhausted });
      expect(source.paused).toBe(false);
      push("y");
      expect(text(await another.next(1))).toBe("y");
    } finally {
      vi.useRealTimers();
    }
  });
});

test("whatever the order of events, nobody loses or repeats a byte and queues stay bounded", async () => {
  const random = new SeededRandom();
  for (let round = 0; round < 30; round += 1) {
    source = new Source();
    hub = new OutputHub(source);
    let produced = "";
    const listeners: { readonly subscription: Subscription; readonly from: number; got: string }[] = [];
    for (let step = 0; step < 200; step += 1) {
      const listener = listeners[random.integer(listeners.length + 1)];
      if (random.integer(10) === 0 && listeners.length < 4)
        listeners.push({ subscription: hub.subscribe(), from: produced.length, got: "" });
      else if (random.integer(2) === 0 && !source.paused) {
        const piece = String.fromCharCode(97 + random.integer(26)).repeat(1 + random.integer(60_000));
        produced += piece;
        push(piece);
      } else if (listener !== undefined && listener.subscription.queuedBytes > 0) listener.got += text(await listener.subscription.next(1));
      for (const each of listeners) expect(each.subscription.queuedBytes).toBeLessThan(queuedBytesMax + 60_001);
    }
    hub.end(exit);
    for (const listener of listeners) {
      const rest = await readAll(listener.subscription);
      expect(listener.got + rest.slice(0, -1).join("") === produced.slice(listener.from), `SEED=${random.seed} replays this`).toBe(true);
    }
  }
});
