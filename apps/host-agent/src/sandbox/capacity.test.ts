import { vmOverheadMib } from "@roost/contract";
import { SeededRandom } from "@roost/testing";
import { expect, test, vi } from "vitest";

import { Capacity } from "./capacity.ts";

test("a refusal names the numbers and when to try again, and reserves nothing", () => {
  const capacity = new Capacity({ sandboxCountMax: 2, memoryMib: 1_000 });
  capacity.reserve("a", 500);
  expect(() => capacity.reserve("b", 500)).toThrow(
    expect.objectContaining({
      code: "capacity_exhausted",
      retryAfterSec: 10,
      message: `the sandbox needs ${500 + vmOverheadMib} MiB of memory and this host has ${1_000 - 500 - vmOverheadMib} MiB left; ask for less, end a sandbox, or try again later`,
    }),
  );
  expect(capacity.sandboxCount).toBe(1);
  capacity.reserve("c", 256);
  expect(() => capacity.reserve("d", 1)).toThrow("this host holds 2 of at most 2 sandboxes");
});

test("what is held adds up, whatever is reserved and released", () => {
  const random = new SeededRandom();
  const capacity = new Capacity({ sandboxCountMax: 20, memoryMib: 10_000 });
  const held = new Map<string, number>();
  for (let step = 0; step < 2_000; step += 1) {
    const id = `i${random.integer(30)}`;
    if (random.next() < 0.5) {
      capacity.release(id);
      held.delete(id);
    } else if (!held.has(id)) {
      const memoryMib = random.integer(2_000);
      const fits = held.size < 20 && memoryMib + vmOverheadMib <= capacity.memoryFreeMib;
      if (fits) {
        capacity.reserve(id, memoryMib);
        held.set(id, memoryMib + vmOverheadMib);
      } else expect(() => capacity.reserve(id, memoryMib), `SEED=${random.seed}`).toThrow(/this host/);
    }
    const sum = [...held.values()].reduce((total, value) => total + value, 0);
    expect(capacity.memoryFreeMib, `SEED=${random.seed}`).toBe(10_000 - sum);
    expect(capacity.sandboxCount).toBe(held.size);
  }
});

test("who finds no room waits for it, first come first served, and a small one does not pass a large one", async () => {
  const capacity = new Capacity({ sandboxCountMax: 10, memoryMib: 1_000 }, { roomWaitMs: 30_000 });
  capacity.reserve("a", 400);
  capacity.reserve("b", 200);
  const order: string[] = [];
  const large = capacity.reserveSoon("large", 500).then(() => order.push("large"));
  const small = capacity.reserveSoon("small", 100).then(() => order.push("small"));
  capacity.release("b");
  await Promise.resolve();
  expect(order, "there would be room for the small one").toEqual([]);
  capacity.release("a");
  await Promise.all([large, small]);
  expect(order).toEqual(["large", "small"]);
  expect(capacity.memoryFreeMib).toBe(1_000 - 500 - 100 - 2 * vmOverheadMib);
});

test("who waits in vain is told the numbers, who gives up holds nothing, and those behind are served", async () => {
  const impatient = new Capacity({ sandboxCountMax: 1, memoryMib: 1_000 }, { roomWaitMs: 1 });
  impatient.reserve("a", 100);
  await expect(impatient.reserveSoon("b", 100)).rejects.toThrow("this host holds 1 of at most 1 sandboxes");
  const capacity = new Capacity({ sandboxCountMax: 10, memoryMib: 1_000 }, { roomWaitMs: 30_000 });
  capacity.reserve("a", 500);
  await expect(capacity.reserveSoon("huge", 2_000), "more than there can ever be").rejects.toThrow("this host has");
  const abort = new AbortController();
  const gone = capacity.reserveSoon("gone", 600, abort.signal);
  const behind = capacity.reserveSoon("behind", 100);
  abort.abort(new Error("no longer wanted"));
  await expect(gone).rejects.toThrow("no longer wanted");
  await behind;
  expect(capacity.sandboxCount).toBe(2);
  await capacity.reserveSoon("behind", 100);
  expect(capacity.sandboxCount, "who holds keeps what it has").toBe(2);
});

test("what is passed on is never free in between", async () => {
  const capacity = new Capacity({ sandboxCountMax: 1, memoryMib: 1_000 }, { roomWaitMs: 30_000 });
  capacity.reserve("a", 100);
  const waiting = capacity.reserveSoon("b", 100);
  capacity.pass("a", "c");
  expect(capacity.sandboxCount).toBe(1);
  capacity.release("a");
  expect(capacity.sandboxCount, "a holds nothing any more").toBe(1);
  capacity.release("c");
  await waiting;
});

test("whoever leaves gives those who wait more time; a host that stays full refuses soon", async () => {
  vi.useFakeTimers();
  try {
    const capacity = new Capacity({ sandboxCountMax: 10, memoryMib: 1_000 }, { roomWaitMs: 5_000 });
    for (const id of ["a", "b"]) capacity.reserve(id, 1);
    capacity.reserve("large", 600);
    let refused = false;
    const waiting = capacity.reserveSoon("waiting", 500).catch(() => {
      refused = true;
    });
    for (const id of ["a", "b"]) {
      await vi.advanceTimersByTimeAsync(4_000);
      capacity.release(id);
    }
    await vi.advanceTimersByTimeAsync(4_000);
    expect(refused, "12 s, but never 5 in which nobody left").toBe(false);
    capacity.release("nobody"); // who held nothing did not leave
    await vi.advanceTimersByTimeAsync(1_000);
    expect(refused).toBe(true);
    await waiting;
  } finally {
    vi.useRealTimers();
  }
});
