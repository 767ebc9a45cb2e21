import { link, mkdtemp, mkdir, open, rename, rm, writeFile } from "node:fs/promises";
import { readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { MiB } from "@roost/kit";

import type { VmDisks, VmSpec } from "../driver.ts";
import { FakeDriver, type FakeGuest } from "../fake.ts";
import type { DriverHarness, GuestBehaviour } from "./contract-suite.ts";

/** Memory of fake VMs in `MiB`: small, so that files of it are. */
const memoryMib = 4;

let specCount = 0;

/** Fake VMs whose guests do as those of `test-guest.ts`. */
export async function createFakeHarness(): Promise<DriverHarness> {
  const folder = await mkdtemp(join(tmpdir(), "roost-fake-"));
  const behaviours = new Map<string, GuestBehaviour>();
  const fake: FakeDriver = new FakeDriver({
    startGuest: (spec, memory) => {
      const behaviour = behaviours.get(spec.folder);
      if (behaviour === "poweroff") setImmediate(() => void fake.end(spec.sandboxId, { exitCode: 0 }));
      return behaviour === "count" ? countingGuest(fake, spec, memory) : { close: () => undefined };
    },
  });

  async function createSpec(behaviour: GuestBehaviour = "idle"): Promise<VmSpec> {
    specCount += 1;
    const sandboxId = `ifake${specCount}`;
    const spec: VmSpec = {
      sandboxId,
      folder: join(folder, sandboxId),
      vcpus: 1,
      memoryMib,
      begin: { kind: "boot", kernel: "/nonexistent/kernel", initramfs: "/nonexistent/initramfs", kernelArguments: [] },
      disks: null,
      network: null,
      uid: 70_000 + specCount,
      gid: 70_000 + specCount,
      accelerator: "tcg",
    };
    behaviours.set(spec.folder, behaviour);
    await mkdir(spec.folder);
    return behaviour === "count" ? { ...spec, disks: await makeDisks(spec, []) } : spec;
  }

  async function makeDisks(spec: VmSpec, lower: readonly { name: string; path: string }[]): Promise<VmDisks> {
    const root = { base: "/nonexistent/base", folder: join(folder, `${spec.sandboxId}-disk`), sizeMib: 1 };
    await mkdir(root.folder, { recursive: true });
    for (const { name, path } of lower) await link(path, join(root.folder, name));
    const top = await makeLayer(root.folder);
    return { root: { ...root, layers: [...lower.map(({ name }) => name), top] }, agentDisk: "/nonexistent/agent" };
  }

  return {
    createDriver: () => fake, // the object stands for the machine, which all drivers share
    createSpec,
    crash: (record) => fake.end(record.sandboxId, { signal: "SIGKILL" }),
    arrangeFailure: async (spec) => {
      fake.failNextStart();
      return spec;
    },
    leftovers: async () => fake.running,
    zeroMemory: async (sizeMib) => {
      const path = join(folder, `zero-${sizeMib}`);
      await using handle = await open(path, "w");
      await handle.truncate(sizeMib * MiB);
      return path;
    },
    newLayer: (spec) => makeLayer(spec.disks?.root.folder ?? ""),
    shareLayers: (from, layers, to) =>
      makeDisks(
        to,
        layers.map((name) => ({ name, path: join(from.disks?.root.folder ?? "", name) })),
      ),
    renameFolder: async (spec) => {
      await rename(spec.folder, `${spec.folder}-moved`);
      return `${spec.folder}-moved`;
    },
    close: () => rm(folder, { recursive: true, force: true }),
  };
}

async function makeLayer(folder: string): Promise<string> {
  specCount += 1;
  const name = `layer${specCount}.qcow2`;
  await writeFile(join(folder, name), "");
  return name;
}

/** Counts in its memory and on its disk; see `memory-image-suite.ts`. The newest layer that holds something is what it reads. */
function countingGuest(fake: FakeDriver, spec: VmSpec, memory: unknown): FakeGuest {
  let number = (memory as { number: number } | undefined)?.number ?? 0;
  let isStopped = false;
  let { sandboxId } = spec;
  const diskFolder = spec.disks?.root.folder ?? "";
  const count = () => {
    if (fake.specOf(sandboxId) === undefined) sandboxId = "imoved";
    if (isStopped || fake.specOf(sandboxId) === undefined) return;
    const layers = fake.layersOf(sandboxId);
    const held = layers.map((layer) => readFileSync(join(diskFolder, layer), "utf8")).filter((text) => text !== "");
    number += 1;
    fake.writeConsole(sandboxId, `count ${number} disk ${held.at(-1) ?? ""} memory ok\n`);
    writeFileSync(join(diskFolder, layers.at(-1) ?? ""), String(number));
  };
  const timer = setInterval(count, 1);
  return {
    capture: () => ({ number }),
    setStopped: (stopped) => {
      isStopped = stopped;
    },
    close: () => clearInterval(timer),
  };
}
