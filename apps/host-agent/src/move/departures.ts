import { stat } from "node:fs/promises";
import { join } from "node:path";

import { PlatformError } from "@roost/contract";
import { MiB } from "@roost/kit";

import { FileDigests } from "../memory/checksum.ts";
import { openFile, readBounded, readFully } from "../memory/file-io.ts";
import { isIntact, type Generation } from "../memory/generations.ts";
import { manifestBytesMax, manifestFile, type LargeFile } from "../memory/manifest.ts";
import { readPointer } from "../memory/pointer.ts";
import { areZeros } from "../memory/zero-pages.ts";
import type { BasedOn } from "../sandbox/admit.ts";
import type { SandboxContext } from "../sandbox/context.ts";
import { presentLayers } from "../sandbox/present-layers.ts";
import type { SandboxManager } from "../sandbox/sandbox-manager.ts";
import type { SandboxRecord, SandboxSpec } from "../sandbox/sandbox-record.ts";
import { baseName, generationFileName, imageName, layerName, type WireParcel } from "./parcel.ts";
import { hold } from "./transit.ts";

/** Bytes of one answer */
export const partBytesMax = 1 * MiB;
/** Bytes that one call looks through for something that is not zero: a disk image is mostly holes, and an answer must not take long */
const scanBytesMax = 64 * MiB;
/** Longest parcel in `bytes`: it is one message */
const parcelBytesMax = 3 * MiB;

interface Departure {
  readonly moveId: string;
  /** Absolute path of each file by the name that it has in a parcel */
  readonly paths: ReadonlyMap<string, string>;
}

/** The sandboxes that leave this host, and their files. Which they are is in their records (./transit.ts): here is only what can be found out again. */
export class Departures {
  readonly #manager: SandboxManager;
  readonly #context: SandboxContext;
  readonly #digests = new FileDigests();
  readonly #known = new Map<string, Departure>();

  constructor(manager: SandboxManager, context: SandboxContext) {
    this.#manager = manager;
    this.#context = context;
  }

  /** Holds a saved sandbox still, and describes it. */
  async begin(
    sandboxId: string,
    moveId: string,
    basedOn: BasedOn,
  ): Promise<{ readonly record: SandboxRecord; readonly parcel: WireParcel }> {
    const sandbox = this.#manager.get(sandboxId);
    await hold(sandbox, moveId, basedOn, async (record) => this.#freeze(record));
    const { record } = sandbox;
    const { parcel, paths } = await this.#describe(record);
    this.#known.set(sandboxId, { moveId, paths });
    return { record, parcel };
  }

  /** The next bytes of a file that are not zero. */
  async read(
    sandboxId: string,
    moveId: string,
    file: string,
    offset: number,
  ): Promise<{ readonly offset: number; readonly data: Uint8Array; readonly isLast: boolean }> {
    const { record } = this.#manager.get(sandboxId);
    if (record.transit?.moveId !== moveId || record.transit.arriving) throw notHeld(sandboxId);
    let known = this.#known.get(sandboxId);
    if (known?.moveId !== moveId) {
      known = { moveId, paths: (await this.#describe(record)).paths }; // this host agent is another one than began it
      this.#known.set(sandboxId, known);
    }
    const path = known.paths.get(file);
    if (path === undefined) throw new PlatformError("request_invalid", `file: the sandbox that departs has no ${file.slice(0, 200)}`);
    return readNext(path, offset);
  }

  forget(sandboxId: string): void {
    this.#known.delete(sandboxId);
  }

  /** What a resume would do first: nobody writes these layers any more, and they are what they are. */
  async #freeze(record: SandboxRecord): Promise<void> {
    const images = this.#context.store.images(record.spec.sandboxId);
    for (const layer of await presentLayers(images, record.layers)) await this.#context.disks.freezeLayer(images.layerPath(layer));
  }

  async #describe(record: SandboxRecord): Promise<{ readonly parcel: WireParcel; readonly paths: ReadonlyMap<string, string> }> {
    const images = this.#context.store.images(record.spec.sandboxId);
    const current = record.currentGeneration === null ? null : await images.current(); // `image_damaged`: it is not moved
    const generations = record.currentGeneration === null ? [] : (await images.list()).filter((each): each is Generation => isIntact(each));
    const paths = new Map<string, string>();
    const addImage = ({ path, digest }: { readonly path: string; readonly digest: string }) => paths.set(imageName(digest), path);
    if (record.disk !== null) addImage({ path: record.disk.base, digest: record.disk.baseDigest });
    const named = new Set<string>();
    for (const { manifest, folder } of generations) {
      for (const { file } of manifest.disk.layers) {
        named.add(file);
        paths.set(layerName(file), images.layerPath(file));
      }
      const { memory, vm } = manifest;
      if (memory === null) continue;
      addImage(vm.agentDisk);
      paths.set(baseName(memory.base.file), images.basePath(memory.base.file));
      for (const { file } of [memory.diff, memory.deviceState]) paths.set(generationFileName(manifest, file), join(folder, file));
    }
    const present = await presentLayers(images, record.layers);
    const loose: LargeFile[] = [];
    for (const file of present.filter((layer) => !named.has(layer))) {
      const { sizeBytes, digest, identity } = await this.#digests.of(images.layerPath(file));
      loose.push({ file, sizeBytes, digest, identity });
      paths.set(layerName(file), images.layerPath(file));
    }
    const state = current === null ? undefined : await readPointer(images.paths);
    const pointer =
      current === null || state?.kind !== "present" ? undefined : { generation: current.number, newest: state.pointer.newest };
    const parcel: WireParcel = {
      record: jsonBytes({ ...record, spec: withoutSecrets(record.spec), layers: present }),
      pointer: pointer === undefined ? new Uint8Array() : jsonBytes(pointer),
      manifests: await Promise.all(generations.map(async ({ folder }) => readBounded(join(folder, manifestFile), manifestBytesMax))),
      looseLayers: jsonBytes(loose),
      files: await Promise.all([...paths].map(async ([name, path]) => ({ name, ...(await sizesOf(path)) }))),
    };
    const bytes = [parcel.record, ...parcel.manifests].reduce((sum, part) => sum + part.length, 0);
    if (bytes > parcelBytesMax) {
      throw new PlatformError(
        "request_too_large",
        `what is saved of the sandbox takes ${bytes} bytes to describe; at most ${parcelBytesMax} can be moved: it has too many checkpoints`,
      );
    }
    return { parcel, paths };
  }
}

/** The control plane has these, and tells them to the host that it goes to. Only that host's authority is not made anew: the guest trusts it. */
function withoutSecrets(spec: SandboxSpec): SandboxSpec {
  return { ...spec, network: { ...spec.network, proxy: null, rules: {} } };
}

function jsonBytes(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value), "utf8");
}

async function sizesOf(path: string): Promise<{ readonly sizeBytes: bigint; readonly dataBytes: bigint }> {
  const { size, blocks } = await stat(path, { bigint: true });
  const occupied = blocks * 512n;
  return { sizeBytes: size, dataBytes: occupied < size ? occupied : size };
}

async function readNext(path: string, offset: number): Promise<{ offset: number; data: Uint8Array; isLast: boolean }> {
  await using file = await openFile(path, "r");
  const { size } = await file.stat();
  if (!Number.isSafeInteger(offset) || offset > size) {
    throw new PlatformError("request_invalid", `offset: ${offset} is behind the end of the file, which has ${size} bytes`);
  }
  const end = Math.min(size, offset + scanBytesMax);
  const buffer = Buffer.alloc(Math.min(partBytesMax, size - offset));
  for (let at = offset; at < end; at += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, size - at));
    await readFully(file, part, at);
    if (!areZeros(part)) return { offset: at, data: part, isLast: at + part.length === size };
  }
  return { offset: end, data: new Uint8Array(), isLast: end === size };
}

function notHeld(sandboxId: string): PlatformError {
  return new PlatformError("sandbox_changed", `sandbox ${sandboxId} is not held by this move any more`);
}
