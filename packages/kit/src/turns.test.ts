import { expect, test } from "vitest";

import { Turns } from "./turns.ts";

const signal = new AbortController().signal;

test("no more than so many at once, first come, first served", async () => {
  const turns = new Turns(2);
  const order: number[] = [];
  let inside = 0;
  let insideMax = 0;
  const visit = async (number: number) => {
    await turns.enter(new AbortController().signal);
    order.push(number);
    inside += 1;
    insideMax = Math.max(insideMax, inside);
    await new Promise(setImmediate);
    inside -= 1;
    turns.leave();
  };
  await Promise.all(Array.from({ length: 20 }, (_, index) => visit(index)));
  expect(insideMax).toBe(2);
  expect(order).toEqual(Array.from({ length: 20 }, (_, index) => index));
  expect(turns.waitingCount).toBe(0);
});

test("who gives up while waiting takes nobody's place", async () => {
  const turns = new Turns(1);
  await turns.enter(signal);
  const abort = new AbortController();
  const impatient = turns.enter(abort.signal);
  const patient = turns.enter(signal);
  abort.abort(new Error("deleted"));
  await expect(impatient).rejects.toThrow("deleted");
  turns.leave();
  await patient;
  expect(turns.waitingCount).toBe(0);
  turns.leave();
  await expect(turns.enter(abort.signal)).rejects.toThrow("deleted");
  await turns.enter(signal);
});

test("who fails gives its turn to the next one, and who gives up before its turn does not act", async () => {
  const turns = new Turns(1);
  let fail = () => {};
  const failing = turns.take(async () => new Promise((_resolve, reject) => (fail = () => reject(new Error("failed")))));
  const abort = new AbortController();
  let hasActed = false;
  const impatient = turns.take(async () => (hasActed = true), abort.signal);
  const next = turns.take(async () => "acted");
  abort.abort(new Error("deleted"));
  await expect(impatient).rejects.toThrow("deleted");
  fail();
  await expect(failing).rejects.toThrow("failed");
  expect(await next).toBe("acted");
  expect(hasActed).toBe(false);
});
