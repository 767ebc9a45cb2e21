import { expect, test } from "vitest";

import { watcherQueueMax, Watchers } from "./watchers.ts";

test("a reader that keeps up hears everything in order", async () => {
  const watchers = new Watchers<number>();
  const end = new AbortController();
  const subscription = watchers.subscribe(end.signal);
  for (let view = 0; view < 100; view += 1) watchers.publish({ kind: "sandbox", view });
  const seen: number[] = [];
  for await (const event of subscription.events(60_000)) {
    if (event?.kind === "sandbox") seen.push(event.view);
    if (seen.length === 100) end.abort();
  }
  expect(seen).toEqual(Array.from({ length: 100 }, (_, index) => index));
  subscription.close();
  expect(watchers.count).toBe(0);
});

test("a reader that is too slow is cut, and holds up no other", async () => {
  const watchers = new Watchers<number>();
  const end = new AbortController();
  const slow = watchers.subscribe(end.signal);
  for (let view = 0; view <= watcherQueueMax; view += 1) watchers.publish({ kind: "sandbox", view });
  const quick = watchers.subscribe(end.signal);
  watchers.publish({ kind: "removed", sandboxId: "i1" });
  await expect(slow.events(60_000).next()).rejects.toMatchObject({ code: "host_unreachable" });
  expect(await quick.events(60_000).next()).toEqual({ done: false, value: { kind: "removed", sandboxId: "i1" } });
});

test("silence is told of, and an abort ends it", async () => {
  const watchers = new Watchers<number>();
  const end = new AbortController();
  const events = watchers.subscribe(end.signal).events(1);
  expect(await events.next()).toEqual({ done: false, value: undefined });
  end.abort();
  expect((await events.next()).done).toBe(true);
});
