import { rm } from "node:fs/promises";

import { assert, type Logger } from "@roost/kit";

import { captureDiff, type CapturedDiff } from "../memory/diff-file.ts";
import type { Generation, GenerationKind, ImageFolder, StagedGeneration } from "../memory/image-folder.ts";
import type { GenerationVm } from "../memory/manifest.ts";
import { pageBytes, type Vm } from "../vmm/driver.ts";
import type { LifeStep } from "./context.ts";
import type { Disks } from "./disks.ts";
import { newLayerName, type StartDisk } from "./start-vm.ts";

export interface CaptureOptions {
  readonly vm: Vm;
  readonly images: ImageFolder;
  readonly disks: Disks;
  readonly kind: GenerationKind;
  /** Null: a template's */
  readonly sandboxId: string | null;
  /** What the manifest tells of the VM */
  readonly machine: GenerationVm;
  readonly versions: Readonly<Record<string, string>>;
  /** File in `memory/` that the guest's memory began as; null: capture the disk alone */
  readonly baseMemory: string | null;
  /** The disk as the VM has it, its base with digest */
  readonly disk: StartDisk;
  /** The guest goes on afterwards; without it, it is left stopped when the capture succeeds */
  readonly live: { readonly uid: number; readonly keepLayers: (layers: readonly string[]) => Promise<void> } | null;
  /** Called between the steps; what it throws makes the capture fail there */
  readonly onStep: (step: LifeStep) => Promise<void>;
  readonly log: Logger;
}

export interface Captured {
  readonly generation: Generation;
  /** Time the guest stood still in `ms`; undefined when it was left so */
  readonly stoppedMs: number | undefined;
}

/**
 * Makes a new generation of a running VM and commits it.
 *
 * The guest is stopped only while its device state is saved and its changed pages are handed to the page cache; checksums, fsyncs and the commit
 * come after it goes on. A live capture also gives the VM a new top layer in that time, so that memory and frozen disk are of one instant. If
 * anything fails before the commit the guest goes on as if nothing had been, and nothing is left.
 */
export async function captureGeneration(options: CaptureOptions): Promise<Captured> {
  const { vm, images, live, disk, onStep } = options;
  const nextLayer = live === null ? undefined : newLayerName();
  if (live !== null && nextLayer !== undefined) {
    await options.disks.createLayer({ path: images.layerPath(nextLayer), sizeMib: disk.sizeMib, uid: live.uid, gid: live.uid });
    await live.keepLayers([...disk.layers, nextLayer]); // before the VMM writes to it: an empty layer changes nothing
    await onStep("capture:layer-recorded");
  }
  let staged: StagedGeneration | undefined;
  let diff: CapturedDiff | null = null;
  let isPushed = false;
  let isStopped = false;
  try {
    staged = await images.stage(options.kind);
    isStopped = true;
    const stopMs = performance.now();
    let stoppedMs: number | undefined;
    await vm.stop();
    await onStep("capture:stopped");
    diff = options.baseMemory === null ? null : await captureMemory(options, staged);
    await onStep("capture:saved");
    if (nextLayer !== undefined) {
      await vm.pushLayer(nextLayer);
      isPushed = true;
      await onStep("capture:layer-pushed");
    }
    if (live !== null) {
      await vm.continue();
      isStopped = false;
      stoppedMs = performance.now() - stopMs;
      await onStep("capture:continued");
    }
    await freezeLayers(options);
    const memory = diff === null || options.baseMemory === null ? null : { base: options.baseMemory, diff: await diff.finish() };
    const generation = await staged.commit({
      sandboxId: options.sandboxId,
      vm: options.machine,
      versions: options.versions,
      memory,
      disk: { sizeMib: disk.sizeMib, base: { path: disk.base, digest: disk.baseDigest }, layers: disk.layers },
    });
    return { generation, stoppedMs };
  } catch (error) {
    if (isStopped) await goOn(options);
    await diff?.discard().catch(() => undefined); // removed with the rest
    await staged
      ?.discard()
      .catch((failure: unknown) => options.log.warn({ err: failure }, "an unfinished generation could not be removed"));
    if (live !== null && nextLayer !== undefined && !isPushed) await takeBack(options, nextLayer);
    throw error;
  }
}

async function captureMemory(options: CaptureOptions, staged: StagedGeneration) {
  assert(options.baseMemory !== null, "memory begins as a base file");
  await options.vm.saveDeviceState(staged.deviceStatePath);
  const memory = await options.vm.openMemory();
  try {
    return await captureDiff({ memory, path: staged.diffPath, baseFile: options.images.basePath(options.baseMemory) });
  } finally {
    memory.close();
  }
}

/**
 * All of them, not only the top: an earlier capture may have been cut off after it gave the VM a new top and before it froze the one below.
 * A guest that is left stopped has its top layer open still, and may have to go on with it: what is open stays open.
 */
async function freezeLayers({ disks, disk, images }: CaptureOptions): Promise<void> {
  assert(disk.layers.length > 0, "a VM has a top layer");
  await Promise.all(disk.layers.map(async (layer) => disks.freezeLayer(images.layerPath(layer))));
}

/** The guest must not stay stopped for our failure. When even this fails its VMM is gone or broken: its end is noticed elsewhere. */
async function goOn(options: CaptureOptions): Promise<void> {
  await options.vm.continue().catch((error: unknown) => options.log.warn({ err: error }, "a stopped guest could not go on"));
}

async function takeBack(options: CaptureOptions, layer: string): Promise<void> {
  // The VMM says which layers it has: a failed answer need not mean a failed deed
  const present = await options.vm.layers().catch(() => undefined);
  if (present === undefined || present.includes(layer)) return;
  await options.live
    ?.keepLayers(options.disk.layers)
    .then(() => rm(options.images.layerPath(layer), { force: true }))
    .catch((error: unknown) => options.log.warn({ err: error, layer }, "an unused layer could not be removed; it is empty"));
}

/** What an event tells of a capture, for programs: sizes in `bytes`, and for how long the guest stood still in `ms`. */
export function captureDetail({ generation, stoppedMs }: Captured): Readonly<Record<string, string>> {
  const { memory } = generation.manifest;
  return {
    generation: String(generation.number),
    ...(memory === null ? {} : { changed_bytes: String(memory.diff.pages * pageBytes), written_bytes: String(memory.diff.sizeBytes) }),
    ...(stoppedMs === undefined ? {} : { guest_stopped_ms: stoppedMs.toFixed(1) }),
  };
}
