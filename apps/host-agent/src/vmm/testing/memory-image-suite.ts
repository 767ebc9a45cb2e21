import { mkdtemp, readFile, rename, rm, truncate, chmod } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { must, poll } from "@roost/kit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import {
  isRunning,
  pageBytes,
  type GuestMemory,
  type PageRun,
  type Vm,
  type VmExit,
  type VmmDriver,
  type VmRecord,
  type VmSpec,
} from "../driver.ts";
import type { DriverHarness } from "./contract-suite.ts";

/** Console read at once in `bytes`: all of it, for the numbers a test lets a guest count to. */
const consoleBytesMax = 256 * 1024;

interface SuiteParts {
  readonly harness: () => DriverHarness;
  readonly driver: () => VmmDriver;
  readonly start: (spec: VmSpec) => Promise<Vm>;
  readonly adopt: (record: VmRecord) => Promise<Vm | VmExit>;
  readonly upTimeoutMs: number;
}

/** What is kept of a stopped VM: all that a restore needs. */
interface Saved {
  readonly spec: VmSpec;
  readonly deviceState: string;
  readonly pages: readonly { readonly run: PageRun; readonly bytes: Buffer }[];
  readonly layers: readonly string[];
}

/**
 * What every driver promises about saving and restoring a VM.
 *
 * The guest of these tests counts for ever. For each number it prints `count N disk M memory ok`: M is what it reads from its disk, which
 * is the number it wrote there the last time, and the memory is ok when random data it keeps has the checksum it keeps with it. So where memory and disk go back
 * together the lines of all its VMs, one after the other, are one sequence without a gap.
 */
export function describeMemoryImages(parts: SuiteParts): void {
  describe("memory images", () => {
    let folder: string;
    let savedCount = 0;

    beforeEach(async () => {
      folder = await mkdtemp(join(tmpdir(), "roost-saved-"));
    });
    afterEach(async () => {
      await rm(folder, { recursive: true, force: true });
    });

    async function startCounting(): Promise<{ spec: VmSpec; vm: Vm }> {
      const spec = await parts.harness().createSpec("count");
      return { spec, vm: await parts.start(spec) };
    }

    /** The guest prints so many more numbers than it has now. */
    async function untilCounted(vm: Vm, more: number): Promise<void> {
      const target = (await counted(vm)) + more;
      await poll({ what: `the guest's number ${target}`, timeoutMs: parts.upTimeoutMs, intervalMs: 5 }, async () =>
        (await counted(vm)) >= target ? true : undefined,
      );
    }

    async function save(vm: Vm, spec: VmSpec): Promise<Saved> {
      savedCount += 1;
      const deviceState = join(folder, `device-${savedCount}.state`);
      await vm.saveDeviceState(deviceState);
      const memory = await vm.openMemory();
      try {
        return { spec, deviceState, pages: await copyChanged(memory), layers: await vm.layers() };
      } finally {
        memory.close();
      }
    }

    /** A spec that continues what was saved, in another VM with a disk of its own over `layers`. */
    async function restoreSpec(saved: Saved, layers: readonly string[] = saved.layers): Promise<VmSpec> {
      const spec = await parts.harness().createSpec("count");
      return {
        ...spec,
        disks: await parts.harness().shareLayers(saved.spec, layers, spec),
        begin: {
          kind: "restore",
          baseFile: await parts.harness().zeroMemory(spec.memoryMib),
          deviceState: saved.deviceState,
          fill: async (memory) => {
            expect(await memory.changedPages(), "pages that a VMM changes before its guest's memory is there").toEqual([]);
            for (const { run, bytes } of saved.pages) memory.write(run.firstPage, bytes);
          },
        },
      };
    }

    test("a guest can be stopped and go on, twice as well as once", async () => {
      const { vm } = await startCounting();
      await untilCounted(vm, 1);
      expect(await vm.isStopped()).toBe(false);
      await vm.continue();
      for (const _ of [1, 2]) {
        await vm.stop();
        expect(await vm.isStopped()).toBe(true);
      }
      for (const _ of [1, 2]) {
        await vm.continue();
        expect(await vm.isStopped()).toBe(false);
      }
      await untilCounted(vm, 2);
      expectSequence(await allOf([vm]));
    });

    test("a guest goes on in another VM where it was stopped, over several generations", async () => {
      const { spec, vm } = await startCounting();
      const vms = [vm];
      await untilCounted(vm, 2);
      await vm.stop();
      let saved = await save(vm, spec);
      await vm.kill();
      for (let generation = 1; generation <= 3; generation += 1) {
        const next = await restoreSpec(saved);
        const restored = await parts.start(next);
        vms.push(restored);
        expect(await restored.isStopped()).toBe(false);
        await untilCounted(restored, 2);
        await restored.stop();
        saved = await save(restored, next);
        expect(saved.layers).toEqual(next.disks?.root.layers);
        await restored.kill();
      }
      const lines = await allOf(vms);
      expectSequence(lines);
      expect(lines.length).toBeGreaterThanOrEqual(8);
    });

    test("what is saved does not follow the guest that goes on: memory and disk are of the instant", async () => {
      const { spec, vm } = await startCounting();
      await untilCounted(vm, 2);
      const layer = await parts.harness().newLayer(spec);
      await vm.stop();
      const saved = await save(vm, spec);
      await vm.pushLayer(layer);
      expect(await vm.layers()).toEqual([...saved.layers, layer]);
      await vm.pushLayer(layer); // a second time changes nothing
      expect(await vm.layers()).toEqual([...saved.layers, layer]);
      const before = await allOf([vm]);
      await vm.continue();
      await untilCounted(vm, 3);
      expectSequence(await allOf([vm]));

      const [one, two] = [await parts.start(await restoreSpec(saved)), await parts.start(await restoreSpec(saved))];
      for (const fork of [one, two]) {
        await untilCounted(fork, 2);
        expectSequence(`${before}${await allOf([fork])}`);
      }
      await untilCounted(vm, 1);
      expectSequence(await allOf([vm]));
    });

    test("layers are put on while the guest runs, and made one again without it noticing", async () => {
      const { spec, vm } = await startCounting();
      const all = [...(spec.disks?.root.layers ?? [])];
      for (let round = 0; round < 3; round += 1) {
        await untilCounted(vm, 1);
        const layer = await parts.harness().newLayer(spec);
        await vm.pushLayer(layer);
        all.push(layer);
      }
      expect(await vm.layers()).toEqual(all);
      await untilCounted(vm, 1);
      await expect(vm.flattenLayers(AbortSignal.abort(new Error("not now")))).rejects.toThrow("not now");
      expect(await vm.layers()).toEqual(all);

      await vm.flattenLayers();
      expect(await vm.layers()).toEqual([all.at(-1)]);
      await vm.flattenLayers(); // nothing left to do
      await untilCounted(vm, 2);
      const next = await parts.harness().newLayer(spec);
      await vm.pushLayer(next);
      await untilCounted(vm, 1);
      expect(await vm.layers()).toEqual([all.at(-1), next]);

      // What the one layer holds is all there was: a guest that goes on from it alone goes on
      await vm.stop();
      const saved = await save(vm, spec);
      const before = await allOf([vm]);
      await vm.kill();
      const restored = await parts.start(await restoreSpec(saved));
      await untilCounted(restored, 2);
      expectSequence(`${before}${await allOf([restored])}`);
    });

    test("a VM whose layers were being copied when its host agent ended is whole, and can be used as any", async () => {
      const { spec, vm } = await startCounting();
      const all = [...(spec.disks?.root.layers ?? [])];
      for (let round = 0; round < 2; round += 1) {
        await untilCounted(vm, 1);
        const layer = await parts.harness().newLayer(spec);
        await vm.pushLayer(layer);
        all.push(layer);
      }
      await untilCounted(vm, 1);
      const flattening = vm.flattenLayers().catch(() => undefined); // what becomes of it is for the next one to find out
      vm.release();
      const adopted = await parts.adopt(vm.record);
      if (!isRunning(adopted)) throw new Error(`not running: ${JSON.stringify(adopted)}`);
      await flattening;
      expect([all.join(), all.at(-1)]).toContain((await adopted.layers()).join());
      await adopted.flattenLayers();
      expect(await adopted.layers()).toEqual([all.at(-1)]);
      const next = await parts.harness().newLayer(spec);
      await adopted.pushLayer(next);
      expect(await adopted.layers()).toEqual([all.at(-1), next]);
      await untilCounted(adopted, 2);
      expectSequence(await allOf([adopted]));
    });

    test("a device state that was cut off is refused, and nothing is left", async () => {
      const { spec, vm } = await startCounting();
      await untilCounted(vm, 1);
      await vm.stop();
      const saved = await save(vm, spec);
      await vm.kill();
      const whole = (await readFile(saved.deviceState)).length;
      expect(whole).toBeGreaterThan(1);
      await chmod(saved.deviceState, 0o644);
      for (const length of [whole - 1, Math.trunc(whole / 2), 1]) {
        await truncate(saved.deviceState, length);
        const failure = await parts
          .driver()
          .start(await restoreSpec(saved))
          .catch((error: unknown) => error);
        expect(failure, `${length} of ${whole} bytes`).toMatchObject({ name: "PlatformError", code: "sandbox_start_failed" });
        expect((failure as { detail?: string }).detail).toBeTruthy();
        expect(await parts.harness().leftovers()).toEqual([]);
      }
    });

    test("a restore whose memory cannot be filled in leaves nothing", async () => {
      const { spec, vm } = await startCounting();
      await untilCounted(vm, 1);
      await vm.stop();
      const saved = await save(vm, spec);
      await vm.kill();
      const next = await restoreSpec(saved);
      const begin = must(next.begin.kind === "restore" ? next.begin : undefined, "a restore");
      const fill = () => Promise.reject(new Error("the diff is damaged"));
      await expect(parts.driver().start({ ...next, begin: { ...begin, fill } })).rejects.toMatchObject({
        code: "sandbox_start_failed",
        detail: expect.stringContaining("the diff is damaged") as string,
      });
      expect(await parts.harness().leftovers()).toEqual([]);
    });

    test("a stopped VM is adopted stopped, with the layers it has, and goes on", async () => {
      const { spec, vm } = await startCounting();
      await untilCounted(vm, 2);
      await vm.stop();
      const layer = await parts.harness().newLayer(spec);
      await vm.pushLayer(layer);
      vm.release();
      const adopted = await parts.adopt(vm.record);
      if (!isRunning(adopted)) throw new Error(`not running: ${JSON.stringify(adopted)}`);
      expect(await adopted.isStopped()).toBe(true);
      expect(await adopted.layers()).toEqual([...(spec.disks?.root.layers ?? []), layer]);
      const saved = await save(adopted, spec);
      expect(saved.pages.length).toBeGreaterThan(0);
      await adopted.continue();
      await untilCounted(adopted, 2);
      expectSequence(await allOf([adopted]));
    });

    test("goes on when its folder is renamed, and is found there by another driver", async () => {
      const { spec, vm } = await startCounting();
      await untilCounted(vm, 1);
      const place = { sandboxId: "imoved", folder: await parts.harness().renameFolder(spec) };
      const record = vm.moveTo(place);
      expect(record).toEqual({ ...vm.record, ...place });
      await untilCounted(vm, 1);
      await vm.stop();
      const saved = await save(vm, spec);
      await vm.continue();
      vm.release();
      const adopted = await parts.adopt(record);
      if (!isRunning(adopted)) throw new Error(`not running: ${JSON.stringify(adopted)}`);
      expect(adopted.record).toEqual(record);
      await untilCounted(adopted, 2);
      expectSequence(await allOf([adopted]));
      const exit = await adopted.kill();
      expect(exit.consoleTail.join("\n")).toContain("count");
      await rename(place.folder, spec.folder); // where its harness looks for it
      expect(saved.pages.length).toBeGreaterThan(0);
    });

    test("operations on a VM that has ended reject", async () => {
      const { vm } = await startCounting();
      await vm.kill();
      for (const attempt of [() => vm.stop(), () => vm.continue(), () => vm.isStopped(), () => vm.layers(), () => vm.openMemory()]) {
        await expect(attempt()).rejects.toThrow(/ended|closed|gone|ENOENT|ESRCH/);
      }
    });
  });
}

async function copyChanged(memory: GuestMemory): Promise<Saved["pages"]> {
  const pages: { run: PageRun; bytes: Buffer }[] = [];
  for (const run of await memory.changedPages()) {
    const bytes = Buffer.alloc(run.pageCount * pageBytes);
    memory.read(run.firstPage, bytes);
    pages.push({ run, bytes });
  }
  return pages;
}

async function counted(vm: Vm): Promise<number> {
  const numbers = [...(await vm.console(consoleBytesMax)).toString("latin1").matchAll(/^count (\d+) disk .*$/gm)];
  return Number(numbers.at(-1)?.[1] ?? 0);
}

/** What all the VMs of a guest printed, one after the other. */
async function allOf(vms: readonly Vm[]): Promise<string> {
  const consoles = await Promise.all(vms.map(async (vm) => (await vm.console(consoleBytesMax)).toString("latin1")));
  return consoles.join("");
}

/** Every number follows the one before it, on the console and on the disk, and the memory was ok each time. */
function expectSequence(console: string): void {
  const whole = console.slice(0, console.lastIndexOf("\n") + 1); // the last may be half a line
  const lines = whole.split(/\r?\n/).filter((line) => line.startsWith("count "));
  expect(lines.length).toBeGreaterThan(0);
  const wrong = lines.filter((line, index) => {
    const [, number, onDisk, memory] = /^count (\d+) disk (\S*) memory (\w+)\s*$/.exec(line) ?? [];
    return Number(number) !== index + 1 || memory !== "ok" || (index > 0 && Number(onDisk) !== index);
  });
  expect(wrong, `lines out of sequence in:\n${console.slice(-4_000)}`).toEqual([]);
}
