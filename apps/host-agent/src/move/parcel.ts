import { PlatformError } from "@roost/contract";
import { GiB, MiB } from "@roost/kit";
import { z } from "zod";

import { fileIdentitySchema, largeDigestSchema } from "../memory/checksum.ts";
import {
  deviceStateFile,
  diffFile,
  fileNameSchema,
  layersMax,
  manifestFile,
  readManifest,
  type LargeFile,
  type Manifest,
} from "../memory/manifest.ts";
import { sandboxRecordSchema, type SandboxRecord } from "../sandbox/sandbox-record.ts";

/** Largest image that is not a sandbox's alone and comes along in `bytes`: a template's raw disk, an agent disk */
const imageBytesMax = 256 * GiB;
/** Room in `bytes` that a layer or diff takes beside what it holds: tables, headers */
const overheadBytes = 64 * MiB;
/** Generations that come along: the current one and kept checkpoints */
const generationsMax = 256;

const digestSchema = z.string().regex(/^sha256:[0-9a-f]{64}$/);
const pointerSchema = z.strictObject({
  generation: z.int().positive(),
  newest: z
    .int()
    .positive()
    .max(2 ** 40),
});
export const looseLayersSchema = z
  .array(
    z.strictObject({
      file: fileNameSchema,
      sizeBytes: z.int().min(0),
      digest: largeDigestSchema,
      identity: fileIdentitySchema,
    }),
  )
  .max(layersMax);

/** What a sandbox consists of beside its files. */
export interface Parcel {
  readonly record: SandboxRecord;
  /** Null: it has no generation */
  readonly pointer: z.infer<typeof pointerSchema> | null;
  readonly manifests: readonly Manifest[];
  /** Layers of its disk that no generation names: what it wrote after the last one */
  readonly looseLayers: readonly LargeFile[];
  /** Sizes by file, as the sender says: for images, whose size nothing else tells, and for how much room is needed */
  readonly sizes: ReadonlyMap<string, { readonly sizeBytes: number; readonly dataBytes: number }>;
}

export interface WireParcel {
  readonly record: Uint8Array;
  readonly pointer: Uint8Array;
  readonly manifests: readonly Uint8Array[];
  readonly looseLayers: Uint8Array;
  readonly files: readonly { readonly name: string; readonly sizeBytes: bigint; readonly dataBytes: bigint }[];
}

/** A file of a sandbox that is moved. Its name is made here, of what was checked, at both ends; what the other end says is only looked up. */
export interface MovedFile {
  /** `disk/l1.qcow2`, `memory/b.memory`, `generations/3.1/memory.diff`, `image/<hex>` */
  readonly name: string;
  /** `large`: a layer or base file · `small`: checked with its generation · `image`: of the host's images, known by its SHA-256 */
  readonly kind: "large" | "small" | "image";
  readonly sizeBytes: number;
  /** Of a `small` one the manifest's word, which is checked otherwise */
  readonly digest: string;
}

/** Reads what the other host says of a sandbox. Nothing of it is believed that is not checked here or when the bytes have come. */
export function readParcel(wire: WireParcel): Parcel {
  try {
    if (wire.manifests.length > generationsMax)
      throw new Error(`has ${wire.manifests.length} generations; at most ${generationsMax} are moved`);
    const record = sandboxRecordSchema.parse(parseJson(wire.record));
    const pointer = wire.pointer.length === 0 ? null : pointerSchema.parse(parseJson(wire.pointer));
    const manifests = wire.manifests.map((bytes, index) => readManifest(bytes, `manifest ${index}`).manifest);
    const sizes = new Map(
      wire.files.map(({ name, sizeBytes, dataBytes }) => [name, { sizeBytes: Number(sizeBytes), dataBytes: Number(dataBytes) }]),
    );
    const parcel = { record, pointer, manifests, looseLayers: looseLayersSchema.parse(parseJson(wire.looseLayers)), sizes };
    checkConsistent(parcel);
    return parcel;
  } catch (error) {
    if (error instanceof PlatformError && error.code === "request_invalid") throw error;
    throw new PlatformError(
      "request_invalid",
      "parcel: what the other host says of the sandbox is not what a host agent of this version says",
      {
        detail: error instanceof Error ? error.message : String(error),
        cause: error,
      },
    );
  }
}

function parseJson(bytes: Uint8Array): unknown {
  return JSON.parse(Buffer.from(bytes).toString("utf8"));
}

function checkConsistent({ record, pointer, manifests, looseLayers }: Parcel): void {
  const { spec, state, layers } = record;
  const requireThat = (isSo: boolean, what: string) => {
    if (!isSo) throw new Error(what);
  };
  requireThat(state === "paused" || state === "failed", `the sandbox is ${state}`);
  requireThat(state !== "paused" || pointer !== null, "a paused sandbox has a generation");
  requireThat(record.vm === null && record.slot === null, "a saved sandbox has no VM");
  const numbers = manifests.map(({ generation }) => generation);
  requireThat(new Set(numbers).size === numbers.length, "a generation comes twice");
  requireThat(pointer === null ? numbers.length === 0 : numbers.includes(pointer.generation), "the current generation does not come along");
  requireThat(pointer === null || Math.max(...numbers) <= pointer.newest, "a generation is newer than the newest");
  requireThat((record.currentGeneration ?? undefined) === pointer?.generation, "record and pointer name different generations");
  const named = new Set(looseLayers.map(({ file }) => file));
  for (const { sandboxId, vm, disk, memory } of manifests) {
    requireThat(sandboxId === null || sandboxId === spec.sandboxId, "a generation is another sandbox's");
    requireThat(vm.vcpus === spec.vcpus && vm.memoryMib === spec.memoryMib, "a generation has other sizes than the sandbox");
    requireThat(record.disk !== null && disk.sizeMib === record.disk.sizeMib, "a generation has another disk than the sandbox");
    requireThat(disk.base.digest === record.disk?.baseDigest, "a generation lies on another image than the sandbox");
    requireThat(
      memory === null || (memory.diff.file === diffFile && memory.deviceState.file === deviceStateFile),
      "a generation's files have other names",
    );
    for (const { file } of disk.layers) named.add(file);
  }
  requireThat(
    layers.every((file) => named.has(file)),
    "a layer of the sandbox does not come along",
  );
  requireThat(record.disk !== null || named.size === 0, "a sandbox without a disk has layers");
}

/** All files that a sandbox consists of, by name. Throws `request_invalid` where two things are said of one, or one is larger than it may be. */
export function filesOf(parcel: Parcel): ReadonlyMap<string, MovedFile> {
  const files = new Map<string, MovedFile>();
  const { record, manifests, looseLayers } = parcel;
  const diskBytes = (record.disk?.sizeMib ?? 0) * MiB;
  const add = (file: MovedFile, bytesMax: number) => {
    const known = files.get(file.name);
    if (known !== undefined && (known.sizeBytes !== file.sizeBytes || known.digest !== file.digest)) {
      throw new PlatformError("request_invalid", `parcel: two things are said of its file ${file.name}`);
    }
    if (file.sizeBytes > bytesMax) {
      throw new PlatformError(
        "request_invalid",
        `parcel: its file ${file.name} has ${file.sizeBytes} bytes; at most ${bytesMax} are possible`,
      );
    }
    files.set(file.name, file);
  };
  const addImage = (digest: string) => {
    if (!digestSchema.safeParse(digest).success) throw new PlatformError("request_invalid", "parcel: an image is known by its SHA-256");
    const name = imageName(digest);
    add({ name, kind: "image", sizeBytes: parcel.sizes.get(name)?.sizeBytes ?? 0, digest }, imageBytesMax);
  };
  const addLarge = (name: string, { sizeBytes, digest }: LargeFile, bytesMax: number) =>
    add({ name, kind: "large", sizeBytes, digest }, bytesMax);
  const layerBytesMax = Math.trunc(diskBytes * 1.05) + overheadBytes;
  if (record.disk !== null) addImage(record.disk.baseDigest);
  for (const layer of looseLayers) addLarge(layerName(layer.file), layer, layerBytesMax);
  for (const manifest of manifests) {
    for (const layer of manifest.disk.layers) addLarge(layerName(layer.file), layer, layerBytesMax);
    const { memory, vm } = manifest;
    if (memory === null) continue;
    const memoryBytes = vm.memoryMib * MiB;
    addImage(vm.agentDisk.digest);
    addLarge(baseName(memory.base.file), memory.base, memoryBytes);
    for (const { file, sizeBytes, digest } of [memory.diff, memory.deviceState]) {
      add({ name: generationFileName(manifest, file), kind: "small", sizeBytes, digest }, memoryBytes + overheadBytes);
    }
  }
  return files;
}

export function layerName(file: string): string {
  return `disk/${file}`;
}

export function baseName(file: string): string {
  return `memory/${file}`;
}

export function generationFileName({ generation, revision }: Pick<Manifest, "generation" | "revision">, file: string): string {
  return `generations/${generation}.${revision}/${file}`;
}

export function generationManifestName(manifest: Manifest): string {
  return generationFileName(manifest, manifestFile);
}

export function imageName(digest: string): string {
  return `image/${digest.slice("sha256:".length)}`;
}
