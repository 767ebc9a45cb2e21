import { expect, test } from "vitest";

import { StartGate } from "./start-gate.ts";

const signal = new AbortController().signal;

test("no more than so many at once, first come, first served", async () => {
  const gate = new StartGate(2);
  const order: number[] = [];
  let inside = 0;
  let insideMax = 0;
  const visit = async (number: number) => {
    await gate.enter(new AbortController().signal);
    order.push(number);
    inside += 1;
    insideMax = Math.max(insideMax, inside);
    await new Promise(setImmediate);
    inside -= 1;
    gate.leave();
  };
  await Promise.all(Array.from({ length: 20 }, (_, index) => visit(index)));
  expect(insideMax).toBe(2);
  expect(order).toEqual(Array.from({ length: 20 }, (_, index) => index));
  expect(gate.waitingCount).toBe(0);
});

test("who gives up while waiting takes nobody's place", async () => {
  const gate = new StartGate(1);
  await gate.enter(signal);
  const abort = new AbortController();
  const impatient = gate.enter(abort.signal);
  const patient = gate.enter(signal);
  abort.abort(new Error("deleted"));
  await expect(impatient).rejects.toThrow("deleted");
  gate.leave();
  await patient;
  expect(gate.waitingCount).toBe(0);
  gate.leave();
  await expect(gate.enter(abort.signal)).rejects.toThrow("deleted");
  await gate.enter(signal);
});
