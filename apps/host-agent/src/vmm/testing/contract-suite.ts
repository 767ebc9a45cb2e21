import { poll } from "@roost/kit";
import { describe, expect, test } from "vitest";

import {
  isRunning,
  vmExitSchema,
  vmRecordSchema,
  type Vm,
  type VmDisks,
  type VmExit,
  type VmmDriver,
  type VmRecord,
  type VmSpec,
} from "../driver.ts";
import { describeMemoryImages } from "./memory-image-suite.ts";
import { useDriver } from "./use-driver.ts";

/** `count` has disks and counts, as `memory-image-suite.ts` tells. */
export type GuestBehaviour = "idle" | "poweroff" | "count";

/** What a driver's tests bring so that the suite can run on it. */
export interface DriverHarness {
  /** A driver as a new process of the host agent would have it: it shares no memory of ours with the others. */
  createDriver(): VmmDriver;
  /** A spec with a folder and uid of its own. */
  createSpec(behaviour?: GuestBehaviour): Promise<VmSpec>;
  /** The VMM dies of SIGKILL. */
  crash(record: VmRecord): Promise<void>;
  /** The next start fails as a VMM does that ends at once; may change the spec to make it so. */
  arrangeFailure(spec: VmSpec): Promise<VmSpec>;
  /** Everything this harness's VMs have left on the machine: processes, mounts, cgroups. Files of failed starts too. */
  leftovers(): Promise<string[]>;
  /** A file of zeros of a guest's size. */
  zeroMemory(memoryMib: number): Promise<string>;
  /** Makes an empty layer in a VM's disk folder and returns its name. */
  newLayer(spec: VmSpec): Promise<string>;
  /** Disks for another VM: with these layers of the one's, frozen and shared, and an empty one on top. */
  shareLayers(from: VmSpec, layers: readonly string[], to: VmSpec): Promise<VmDisks>;
  /** Renames the folder of a VM and returns its new name. */
  renameFolder(spec: VmSpec): Promise<string>;
  close(): Promise<void>;
}

/** What every driver promises; see `VmmDriver`. */
export function describeVmmDriver(name: string, createHarness: () => Promise<DriverHarness>, upTimeoutMs: number): void {
  describe(`${name} driver`, () => {
    const { harness, driver, start } = useDriver(createHarness);

    /** The guest has run: its init printed something. */
    async function untilUp(vm: Vm): Promise<void> {
      await poll({ what: "the guest's first words", timeoutMs: upTimeoutMs }, async () => {
        const lines = await vm.consoleTail(20);
        return lines.some((line) => line.includes("guest is up")) ? true : undefined;
      });
    }

    async function adopt(record: VmRecord): Promise<Vm | VmExit> {
      const stored = vmRecordSchema.parse(JSON.parse(JSON.stringify(record)));
      return harness().createDriver().adopt(stored);
    }

    test("starts a guest, keeps what it prints, and ends it", async () => {
      expect(await driver().version()).toMatch(/\d/);
      const spec = await harness().createSpec();
      const vm = await start(spec);
      await untilUp(vm);
      expect((await vm.console(5)).length).toBe(5);
      expect((await vm.consoleTail(1)).length).toBe(1);
      expect(vm.record).toMatchObject({
        driver: driver().name,
        sandboxId: spec.sandboxId,
        folder: spec.folder,
        vmmVersion: await driver().version(),
      });

      const exit = await vm.kill();
      expect(exit).toMatchObject({ exitCode: null, signal: "SIGKILL" });
      expect(vmExitSchema.parse(exit).consoleTail.join("\n")).toContain("guest is up");
      expect(await vm.kill()).toEqual(exit);
      expect(await vm.exited).toEqual(exit);
      expect(await vm.shutdown({ graceMs: 0 })).toEqual(exit);
      expect((await vm.console(100)).length).toBeGreaterThan(0);
    });

    test("tells how a VMM died, with its last words", async () => {
      const vm = await start(await harness().createSpec());
      await untilUp(vm);
      await harness().crash(vm.record);
      const exit = await vm.exited;
      expect(exit).toMatchObject({ exitCode: null, signal: "SIGKILL" });
      expect(exit.consoleTail.join("\n")).toContain("guest is up");
    });

    test("a guest that powers itself off is an exit with 0", async () => {
      const vm = await start(await harness().createSpec("poweroff"));
      expect(await vm.exited).toMatchObject({ exitCode: 0, signal: null });
    });

    test("shutdown ends the VMM in order", async () => {
      const vm = await start(await harness().createSpec());
      await untilUp(vm);
      expect(await vm.shutdown({ graceMs: 1 })).toMatchObject({ exitCode: 0, signal: null });
    });

    test("a start that fails leaves nothing and says why", async () => {
      const spec = await harness().arrangeFailure(await harness().createSpec());
      const failure = await driver()
        .start(spec)
        .catch((error: unknown) => error);
      expect(failure).toMatchObject({ name: "PlatformError", code: "sandbox_start_failed" });
      expect((failure as { detail?: string }).detail).toBeTruthy();
      expect(await harness().leftovers()).toEqual([]);
    });

    test("a start whose signal aborted before begins nothing", async () => {
      const spec = await harness().createSpec();
      await expect(driver().start(spec, AbortSignal.abort(new Error("too late")))).rejects.toThrow("too late");
      expect(await harness().leftovers()).toEqual([]);
    });

    test("is adopted by another driver, which then sees its end", async () => {
      const vm = await start(await harness().createSpec());
      await untilUp(vm);
      vm.release();
      const adopted = await adopt(vm.record);
      if (!isRunning(adopted)) throw new Error(`not running: ${JSON.stringify(adopted)}`);
      expect(adopted.record).toEqual(vm.record);
      expect((await adopted.consoleTail(20)).join("\n")).toContain("guest is up");
      await harness().crash(vm.record);
      expect(await adopted.exited).toMatchObject({ exitCode: null, signal: "SIGKILL" });
      // The one who let go hears no more of it.
      expect(await Promise.race([vm.exited, Promise.resolve("pending")])).toBe("pending");
    });

    test("how it ended is known when it ended while nobody watched", async () => {
      const vm = await start(await harness().createSpec());
      await untilUp(vm);
      vm.release();
      await harness().crash(vm.record);
      const exit = await poll({ what: "the exit", timeoutMs: upTimeoutMs }, async () => {
        const adopted = await adopt(vm.record);
        return isRunning(adopted) ? (adopted.release(), undefined) : adopted;
      });
      expect(exit).toMatchObject({ exitCode: null, signal: "SIGKILL" });
      expect(exit.consoleTail.join("\n")).toContain("guest is up");
      expect(await adopt(vm.record)).toEqual(exit);
    });

    test("is ended through its record alone", async () => {
      const vm = await start(await harness().createSpec());
      vm.release();
      const other = harness().createDriver();
      await other.destroy(vm.record);
      await other.destroy(vm.record);
      expect(await harness().leftovers()).toEqual([]);
      expect(isRunning(await adopt(vm.record))).toBe(false);
    });

    describeMemoryImages({ harness, driver, start, adopt, upTimeoutMs });

    test("two VMs are each other's strangers", async () => {
      const [one, two] = await Promise.all([start(await harness().createSpec()), start(await harness().createSpec())]);
      await Promise.all([untilUp(one), untilUp(two)]);
      await one.kill();
      expect(await Promise.race([two.exited, Promise.resolve("running")])).toBe("running");
      expect(await two.kill()).toMatchObject({ signal: "SIGKILL" });
    });
  });
}
