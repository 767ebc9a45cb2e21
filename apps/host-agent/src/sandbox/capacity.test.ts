import { SeededRandom } from "@roost/testing";
import { expect, test } from "vitest";

import { Capacity, vmOverheadMib } from "./capacity.ts";

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
