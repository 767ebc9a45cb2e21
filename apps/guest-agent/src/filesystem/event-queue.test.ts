import { Code, ConnectError } from "@connectrpc/connect";
import { EventType } from "@roost/contract/gen/filesystem/filesystem_pb.js";
import { describe, expect, test } from "vitest";

import { EventQueue, type WatchEvent } from "./event-queue.ts";

const event = (name: string, type = EventType.CREATE): WatchEvent => ({ name, type, path: `/${name}` });
const never = new AbortController().signal;
const long = 3_600_000;

describe("an event queue", () => {
  test("gives events in order, then waits", async () => {
    const queue = new EventQueue();
    queue.push(event("a"));
    queue.push(event("b"));
    expect(await queue.next(long, never)).toEqual(event("a"));
    expect(await queue.next(long, never)).toEqual(event("b"));
    expect(await queue.next(1, never)).toBe("idle");
    const waiting = queue.next(long, never);
    queue.push(event("c"));
    expect(await waiting).toEqual(event("c"));
  });

  test("merges what is the same, twice in a row and not yet read", async () => {
    const queue = new EventQueue();
    for (const name of ["a", "a", "b", "a"]) queue.push(event(name, EventType.WRITE));
    queue.push(event("a", EventType.CHMOD));
    expect(queue.drain().map(({ name, type }) => `${type}${name}`)).toEqual(["2a", "2b", "2a", "5a"]);
    queue.push(event("a", EventType.CHMOD));
    expect(queue.drain().length).toBe(1);
  });

  test("more than it may hold is a failure, at once and for good, and frees what waited", async () => {
    const queue = new EventQueue(3);
    for (const name of ["a", "b", "c"]) queue.push(event(name));
    expect(queue.isOpen).toBe(true);
    queue.push(event("d"));
    expect([queue.isOpen, queue.length]).toEqual([false, 0]);
    for (let round = 0; round < 2; round += 1) {
      const error = await queue.next(long, never).catch((reason: unknown) => ConnectError.from(reason));
      expect(error).toMatchObject({ code: Code.ResourceExhausted, rawMessage: expect.stringContaining("events were lost") });
      expect(() => queue.drain()).toThrow(/events were lost/);
    }
    queue.push(event("e"));
    expect(queue.length).toBe(0);
  });

  test("an end comes after what waits; an abort at once; both wake who waits", async () => {
    const queue = new EventQueue();
    queue.push(event("a"));
    queue.end();
    expect(await queue.next(long, never)).toEqual(event("a"));
    expect(await queue.next(long, never)).toBe("end");

    const ended = new EventQueue();
    const first = ended.next(long, never);
    ended.end();
    expect(await first).toBe("end");

    const abort = new AbortController();
    const second = new EventQueue().next(long, abort.signal);
    abort.abort();
    expect(await second).toBe("end");
    expect(await new EventQueue().next(long, abort.signal)).toBe("end");
  });

  test("holds thousands that come and go without keeping those that went", async () => {
    const queue = new EventQueue(5000);
    for (let round = 0; round < 4; round += 1) {
      for (let index = 0; index < 4000; index += 1) queue.push(event(`${round}-${index}`));
      for (let index = 0; index < 4000; index += 1) expect(((await queue.next(long, never)) as WatchEvent).name).toBe(`${round}-${index}`);
      expect(queue.length).toBe(0);
    }
  });
});
