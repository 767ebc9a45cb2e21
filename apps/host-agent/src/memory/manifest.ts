import { createHash } from "node:crypto";

import { memoryMibMax, sandboxIdPattern, vcpusMax } from "@roost/contract";
import { GiB, MiB } from "@roost/kit";
import { z } from "zod";

import { pageBytes, vmFingerprintSchema } from "../vmm/driver.ts";
import { dataMapSchema, fileIdentitySchema, largeDigestSchema } from "./checksum.ts";
import { imageDamaged, whyUnreadable } from "./image-damaged.ts";
import { seal, unseal } from "./sealed-json.ts";

/** Longest manifest in `bytes`: a full one of 64 layers has some 20 KiB */
export const manifestBytesMax = 256 * 1024;
/** Layers of one disk; flattening keeps chains far below it */
export const layersMax = 64;
/** Largest device state in `bytes`; tens of KiB are usual */
export const deviceStateBytesMax = 16 * MiB;
/** Largest disk layer or base file in `bytes` that a manifest may speak of */
const fileBytesMax = 64 * 1024 * GiB;
/** Longest data map of a base file in characters; that of 64 GiB has 4,096 */
const dataMapLengthMax = 16 * 1024;
/** Greatest generation and revision number: far from where JSON numbers become inexact */
const numberMax = 2 ** 40;

/** Why a generation was made. A rebase or a compaction makes a new revision of it and does not change the kind. */
export const generationKinds = ["pause", "checkpoint", "fork", "snapshot", "template"] as const;
export type GenerationKind = (typeof generationKinds)[number];

const sha256Schema = z.string().regex(/^sha256:[0-9a-f]{64}$/);
const text = (lengthMax: number) => z.string().max(lengthMax);
const absolutePathSchema = text(4095).startsWith("/");

/** A plain name: never a path, never hidden. */
export const fileNameSchema = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/)
  .refine((name) => !name.includes(".."));

const largeFileSchema = z.strictObject({
  file: fileNameSchema,
  sizeBytes: z.int().min(0).max(fileBytesMax),
  digest: largeDigestSchema,
  /** What the digest was calculated of; while it is unchanged, the file is */
  identity: fileIdentitySchema,
});
export type LargeFile = z.infer<typeof largeFileSchema>;

const baseFileSchema = largeFileSchema.extend({ dataMap: dataMapSchema.max(dataMapLengthMax) });
export type BaseFile = z.infer<typeof baseFileSchema>;

const boundedFingerprintSchema = z.strictObject({
  vmm: text(64),
  vmmVersion: text(256),
  accelerator: vmFingerprintSchema.shape.accelerator,
  machine: text(256),
  cpu: text(1024),
});

/** What the VM was, and what a VMM must be to take it over. */
export const generationVmSchema = z.strictObject({
  vcpus: z.int().min(1).max(vcpusMax),
  memoryMib: z.int().min(1).max(memoryMibMax),
  fingerprint: boundedFingerprintSchema,
  /** The kernel that runs in the guest: part of its memory */
  kernel: z.strictObject({ version: text(128), digest: text(128) }),
  /** Second disk, mounted in the guest: must be the same bytes */
  agentDisk: z.strictObject({ path: absolutePathSchema, digest: text(128) }),
  /** Of its network card; null without one */
  macAddress: z
    .string()
    .regex(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/)
    .nullable(),
});
export type GenerationVm = z.infer<typeof generationVmSchema>;

export const diffInfoSchema = z.strictObject({
  sizeBytes: z.int().min(0).max(fileBytesMax),
  /** Of header and run table, which hold the checksums of all data */
  digest: sha256Schema,
  runs: z.int().min(0),
  /** Pages with data, of `pageBytes` */
  pages: z.int().min(0),
  /** Pages that are zero in the guest and not in the base file */
  zeroPages: z.int().min(0),
});
export type DiffInfo = z.infer<typeof diffInfoSchema>;

const memorySchema = z.strictObject({
  /** In `memory/` of the image folder; exactly the guest's memory size, sparse */
  base: baseFileSchema,
  /** In the generation's folder */
  diff: diffInfoSchema.extend({ file: fileNameSchema }),
  deviceState: z.strictObject({ file: fileNameSchema, sizeBytes: z.int().min(1).max(deviceStateBytesMax), digest: sha256Schema }),
});

/** `manifest.json` of a generation: everything that is needed to verify it and to start from it. */
export const manifestSchema = z
  .strictObject({
    checksum: sha256Schema,
    format: z.literal("roost-memory-image"),
    formatVersion: z.literal(1),
    generation: z.int().min(1).max(numberMax),
    revision: z.int().min(1).max(numberMax),
    kind: z.enum(generationKinds),
    timeCreatedMs: z.int().min(0),
    /** Sandbox that it was made of, or that it is linked to; null: a template's */
    sandboxId: z.string().regex(sandboxIdPattern).nullable(),
    vm: generationVmSchema,
    /** Null: the disk alone; starting from it is a boot */
    memory: memorySchema.nullable(),
    disk: z.strictObject({
      /** Size the guest sees in `MiB` */
      sizeMib: z
        .int()
        .min(1)
        .max(fileBytesMax / MiB),
      /** Raw image below all layers */
      base: z.strictObject({ path: absolutePathSchema, digest: text(128) }),
      /** In `disk/` of the image folder, oldest first; all of them frozen */
      layers: z.array(largeFileSchema).max(layersMax),
    }),
    /** Of what made it, for people: `vmm`, `kernel`, `guest_agent` … */
    versions: z.record(text(64), text(256)).refine((versions) => Object.keys(versions).length <= 32, "too many versions"),
  })
  .superRefine(({ memory, vm, disk }, context) => {
    const complain = (message: string) => context.addIssue({ code: "custom", message });
    if (memory !== null && memory.base.sizeBytes !== vm.memoryMib * MiB) complain("the base file is not of the memory's size");
    if (memory !== null && memory.diff.pages + memory.diff.zeroPages > (vm.memoryMib * MiB) / pageBytes)
      complain("more pages than memory has");
    if (new Set(disk.layers.map((layer) => layer.file)).size !== disk.layers.length) complain("a layer is named twice");
  });
export type Manifest = z.infer<typeof manifestSchema>;

export const manifestFile = "manifest.json";
export const diffFile = "memory.diff";
export const deviceStateFile = "device.state";

export interface SealedManifest {
  readonly text: string;
  readonly manifest: Manifest;
  /** `sha256:` of the file's bytes */
  readonly digest: string;
}

/** The bytes of `manifest.json`. Throws when what we are about to commit could not be read again. */
export function sealManifest(content: Omit<Manifest, "checksum">): SealedManifest {
  const sealed = seal(content);
  const manifest = manifestSchema.parse(JSON.parse(sealed));
  if (sealed.length > manifestBytesMax) throw new Error(`a manifest of ${sealed.length} bytes could not be read again`);
  return { text: sealed, manifest, digest: digestOf(sealed) };
}

/** Reads the bytes of a manifest; `image_damaged` when they are not what was written. `path` is for the error. */
export function readManifest(bytes: Uint8Array, path: string): SealedManifest {
  try {
    const manifest = manifestSchema.parse(unseal(bytes));
    return { text: Buffer.from(bytes).toString("utf8"), manifest, digest: digestOf(bytes) };
  } catch (error) {
    throw imageDamaged(`${path}: ${whyUnreadable(error)}`, error);
  }
}

function digestOf(bytes: string | Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}
