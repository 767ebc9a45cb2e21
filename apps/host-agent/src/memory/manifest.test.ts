import { createHash } from "node:crypto";

import { MiB } from "@roost/kit";
import { expect, test } from "vitest";
import { z } from "zod";

import { layersMax, manifestSchema, readManifest, sealManifest, type Manifest } from "./manifest.ts";
import { seal, unseal } from "./sealed-json.ts";
import { aVm, memoryMib } from "./testing/image-fixture.ts";

const hex = "0123456789abcdef".repeat(4);
const layer = (file: string) => ({
  file,
  sizeBytes: 1000,
  digest: `crc32-4m:${hex}`,
  identity: { dev: "64768", ino: "12", mtimeNs: "1700000000123456789" },
});

function content(): Omit<Manifest, "checksum"> {
  return {
    format: "roost-memory-image",
    formatVersion: 1,
    generation: 3,
    revision: 1,
    kind: "checkpoint",
    timeCreatedMs: 1_700_000_000_000,
    sandboxId: "isandbox",
    vm: aVm,
    memory: {
      base: { ...layer("zero.memory"), sizeBytes: memoryMib * MiB, dataMap: "00" },
      diff: { file: "memory.diff", sizeBytes: 4096, digest: `sha256:${hex}`, runs: 0, pages: 0, zeroPages: 0 },
      deviceState: { file: "device.state", sizeBytes: 100, digest: `sha256:${hex}` },
    },
    disk: { sizeMib: 64, base: { path: "/images/base.raw", digest: "sha256:x" }, layers: [layer("a.qcow2")] },
    versions: { kernel: "6.1.0", note: "Zürich ☂" },
  };
}

/** A manifest with its types forgotten. */
// oxlint-disable-next-line typescript/no-explicit-any
type Loose = any;

const read = (text: string) => readManifest(Buffer.from(text), "manifest.json").manifest;

test("a manifest is read as it was written, text outside ASCII too", () => {
  const { text, digest } = sealManifest(content());
  const { manifest, digest: again } = readManifest(Buffer.from(text), "manifest.json");
  expect(manifest).toMatchObject(content());
  expect(again).toBe(digest);
  expect(text.startsWith('{\n  "checksum": "sha256:')).toBe(true);
});

test("a sealed file says so itself: the hash of its bytes with the checksum's digits as zeros", () => {
  const text = seal({ a: 1 });
  const zeroed = text.replace(/[0-9a-f]{64}/, "0".repeat(64));
  expect(zeroed).toBe(`{\n  "checksum": "sha256:${"0".repeat(64)}",\n  "a": 1\n}\n`);
  expect(text.slice(24, 88)).toBe(createHash("sha256").update(zeroed).digest("hex"));
  expect(unseal(Buffer.from(text))).toEqual({ checksum: `sha256:${text.slice(24, 88)}`, a: 1 });
  expect(() => unseal(Buffer.from(text.replace('"a": 1', '"a": 2')))).toThrow("checksum");
  expect(() => unseal(Buffer.from('{"checksum":"sha256:0"}'))).toThrow("does not begin");
});

test.each<[string, (manifest: Loose) => unknown]>([
  ["another format", (m) => (m.format = "other")],
  ["a later format version", (m) => (m.formatVersion = 2)],
  ["an unknown field", (m) => (m.surprise = 1)],
  ["no generation", (m) => delete m.generation],
  ["generation 0", (m) => (m.generation = 0)],
  ["a kind that is none", (m) => (m.kind = "other")],
  ["a sandbox id that is a path", (m) => (m.sandboxId = "../etc")],
  ["a base file of another size", (m) => (m.memory.base.sizeBytes += 1)],
  ["more pages than memory has", (m) => (m.memory.diff.pages = 257)],
  ["a file name that is a path", (m) => (m.disk.layers[0].file = "../a.qcow2")],
  ["a hidden file name", (m) => (m.memory.base.file = ".memory")],
  ["a file name with two dots", (m) => (m.memory.diff.file = "a..b")],
  ["an empty file name", (m) => (m.memory.deviceState.file = "")],
  ["a layer that is named twice", (m) => m.disk.layers.push(m.disk.layers[0])],
  ["too many layers", (m) => (m.disk.layers = Array.from({ length: layersMax + 1 }, (_, index) => layer(`${index}.qcow2`)))],
  ["a digest of another kind", (m) => (m.disk.layers[0].digest = `sha256:${hex}`)],
  ["a negative size", (m) => (m.disk.layers[0].sizeBytes = -1)],
  ["a device state that is too large", (m) => (m.memory.deviceState.sizeBytes = 17 * MiB)],
  ["a disk base that is no absolute path", (m) => (m.disk.base.path = "images/base.raw")],
  ["too many versions", (m) => (m.versions = Object.fromEntries(Array.from({ length: 33 }, (_, index) => [`v${index}`, "1"])))],
  ["a text that is too long", (m) => (m.versions.kernel = "x".repeat(257))],
  ["an address that is none", (m) => (m.vm.macAddress = "02:FC:00:00:00:05")],
])("%s is refused, also when the checksum is right", (_what, change) => {
  const changed = structuredClone<Loose>(content());
  change(changed);
  expect(() => read(seal(changed))).toThrow(expect.objectContaining({ code: "image_damaged" }));
  expect(() => sealManifest(changed)).toThrow(z.ZodError);
});

test("the unchanged one is fine", () => {
  expect(manifestSchema.parse(read(seal(content())))).toMatchObject(content());
});
