import { poll, silentLogger } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { expect, test } from "vitest";

import { SlotPool } from "./slot-pool.ts";

/** A kernel that knows which slots exist and refuses to make one twice. */
class FakeKernel {
  readonly existing = new Set<number>();
  failing = false;
  removeFailing = false;
  readonly #random = new SeededRandom(1);

  async make(index: number): Promise<void> {
    await this.#pause();
    if (this.failing) throw new Error("no memory for a namespace");
    if (this.existing.has(index)) throw new Error(`slot ${index} exists`);
    this.existing.add(index);
  }

  async remove(index: number): Promise<void> {
    await this.#pause();
    if (this.removeFailing) throw new Error("the namespace is busy");
    this.existing.delete(index);
  }

  async #pause(): Promise<void> {
    for (let turns = this.#random.integer(4); turns > 0; turns -= 1) await new Promise(setImmediate);
  }
}

function aPool(
  kernel: FakeKernel,
  options: { readonly slotCount?: number; readonly preparedMax?: number; readonly inUse?: number[] } = {},
) {
  return new SlotPool({
    maker: kernel,
    log: silentLogger,
    slotCount: options.slotCount ?? 8,
    preparedMax: options.preparedMax ?? 2,
    inUse: options.inUse ?? [],
  });
}

test("slots are prepared ahead, and no more than asked for", async () => {
  const kernel = new FakeKernel();
  const pool = aPool(kernel);
  pool.refill();
  await poll({ what: "prepared slots", timeoutMs: 30_000, intervalMs: 1 }, () => (pool.preparedCount === 2 ? true : undefined));
  expect(kernel.existing.size).toBe(2);
  expect(await pool.acquire()).toBe(0);
  await pool.close({ removeLent: false });
  expect([...kernel.existing]).toEqual([0]);
});

test("no slot is ever lent twice, whatever the order of acquire and release", async () => {
  const random = new SeededRandom();
  const kernel = new FakeKernel();
  const pool = aPool(kernel, { slotCount: 6, preparedMax: 3, inUse: [2] });
  const lent = new Set<number>([2]);
  const worker = async () => {
    for (let step = 0; step < 100; step += 1) {
      const index = await pool.acquire().catch((error: { code?: string }) => {
        expect(error.code, `SEED=${random.seed}`).toBe("capacity_exhausted");
        return undefined;
      });
      if (index === undefined) {
        await new Promise(setImmediate);
        continue;
      }
      expect(lent.has(index), `SEED=${random.seed}: slot ${index} is lent twice`).toBe(false);
      lent.add(index);
      for (let turns = random.integer(5); turns > 0; turns -= 1) await new Promise(setImmediate);
      expect(kernel.existing.has(index)).toBe(true);
      lent.delete(index);
      await Promise.all([pool.release(index), pool.release(index)]);
    }
  };
  await Promise.all(Array.from({ length: 8 }, worker));
  await pool.close({ removeLent: false });
  expect([...kernel.existing]).toEqual([]);
});

test("an acquire that is aborted or fails leaves nothing lent", async () => {
  const kernel = new FakeKernel();
  const pool = aPool(kernel, { slotCount: 1, preparedMax: 0 });
  kernel.failing = true;
  await expect(pool.acquire()).rejects.toThrow("no memory");
  kernel.failing = false;
  const abort = new AbortController();
  const acquiring = pool.acquire(abort.signal);
  abort.abort(new Error("deleted"));
  await expect(acquiring).rejects.toThrow("deleted");
  expect(await pool.acquire()).toBe(0);
});

test("a slot whose removal failed is not lent again", async () => {
  const kernel = new FakeKernel();
  const pool = aPool(kernel, { slotCount: 1, preparedMax: 0 });
  await pool.acquire();
  kernel.removeFailing = true;
  await expect(pool.release(0)).rejects.toThrow("busy");
  await expect(pool.acquire()).rejects.toMatchObject({ code: "capacity_exhausted" });
});
