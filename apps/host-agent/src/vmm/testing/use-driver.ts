import { afterEach, beforeEach, expect } from "vitest";

import type { Vm, VmmDriver, VmRecord, VmSpec } from "../driver.ts";
import type { DriverHarness } from "./contract-suite.ts";

/** A harness and a driver of its own for each test of a suite. After each its VMs are ended, and nothing of them may be left. */
export function useDriver<H extends DriverHarness>(createHarness: () => Promise<H>) {
  let harness: H;
  let driver: VmmDriver;
  const records: VmRecord[] = [];

  beforeEach(async () => {
    harness = await createHarness();
    driver = harness.createDriver();
  });

  afterEach(async () => {
    for (const record of records.splice(0)) await driver.destroy(record);
    const left = await harness.leftovers();
    await harness.close();
    expect(left, "what the VMs of this test left").toEqual([]);
  });

  return {
    harness: () => harness,
    driver: () => driver,
    start: async (spec: VmSpec): Promise<Vm> => {
      const vm = await driver.start(spec);
      records.push(vm.record);
      return vm;
    },
    /** VMs that are ended after the test; those of `start` are among them */
    records,
  };
}
