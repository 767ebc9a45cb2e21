import { chmod, mkdir, mkdtemp, open, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { MiB, silentLogger } from "@roost/kit";

import { pageBytes } from "../../vmm/driver.ts";
import { applyDiff, captureDiff } from "../diff-file.ts";
import type { Generation } from "../generations.ts";
import { ImageFolder, type ImageFolderOptions } from "../image-folder.ts";
import type { GenerationKind, GenerationVm } from "../manifest.ts";
import { BufferMemory } from "./buffer-memory.ts";

export const memoryMib = 1;
export const memoryBytes = memoryMib * MiB;
export const zeroBase = `zero-${memoryMib}mib.memory`;

export const aVm: GenerationVm = {
  vcpus: 1,
  memoryMib,
  fingerprint: { vmm: "fake", vmmVersion: "1", accelerator: "tcg", machine: "none", cpu: "none" },
  kernel: { version: "6.1.0", digest: "sha256:0" },
  agentDisk: { path: "/images/agent.squashfs", digest: "sha256:1" },
  macAddress: "02:fc:00:00:00:05",
};

/** Support for tests: image folders in a temporary folder, and VMs that are only a buffer and a list of layers. */
export class ImageFixture implements AsyncDisposable {
  readonly root: string;

  private constructor(root: string) {
    this.root = root;
  }

  static async create(root?: string): Promise<ImageFixture> {
    const fixture = new ImageFixture(root ?? (await mkdtemp(join(tmpdir(), "roost-image-"))));
    await mkdir(join(fixture.root, "zeros"), { recursive: true });
    return fixture;
  }

  folder(name: string, options: Partial<ImageFolderOptions> = {}): ImageFolder {
    return new ImageFolder(join(this.root, name), { log: silentLogger, ...options });
  }

  /** The path of the file of zeros that the memory of a booted VM begins as. */
  async zeroMemory(): Promise<string> {
    const path = join(this.root, "zeros", zeroBase);
    const file = await open(path, "a", 0o444);
    await file.truncate(memoryBytes);
    await file.close();
    return path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.root, { recursive: true, force: true });
  }
}

/** A layer that nobody writes any more. */
export async function makeLayer(images: ImageFolder, name: string, content: string = name): Promise<string> {
  await writeFile(images.layerPath(name), `${content}\n`.repeat(100));
  await chmod(images.layerPath(name), 0o444);
  return name;
}

export interface CommitOptions {
  readonly kind?: GenerationKind;
  readonly memory: BufferMemory | null;
  readonly base: string;
  readonly layers: readonly string[];
}

/** What a capture of a VM does, from the stop of its guest on. */
export async function commitGeneration(images: ImageFolder, options: CommitOptions): Promise<Generation> {
  const staged = await images.stage(options.kind ?? "pause");
  let diff;
  if (options.memory !== null) {
    await writeFile(staged.deviceStatePath, `device state of ${staged.number}`);
    diff = await (await captureDiff({ memory: options.memory, path: staged.diffPath, baseFile: images.basePath(options.base) })).finish();
  }
  return staged.commit({
    sandboxId: "isandbox",
    vm: aVm,
    versions: { kernel: "6.1.0" },
    memory: diff === undefined ? null : { base: options.base, diff },
    disk: { sizeMib: 64, base: { path: "/images/base.raw", digest: "sha256:2" }, layers: options.layers },
  });
}

/** A guest's memory as a restore of the generation makes it. */
export async function restoreMemory(images: ImageFolder, generation: Generation): Promise<Buffer> {
  await images.verify(generation, { deep: false });
  const { memory } = generation.manifest;
  if (memory === null) throw new Error("has no memory");
  const file = await open(images.basePath(memory.base.file));
  const base = Buffer.alloc(memoryBytes);
  await file.read(base, 0, memoryBytes, 0);
  await file.close();
  const restored = new BufferMemory(base);
  await applyDiff(images.filePath(generation, memory.diff.file), restored, memory.diff);
  return restored.bytes;
}

/** Value of the first byte of each page that is not zero: what a test compares. */
export function pagesOf(bytes: Buffer): Record<number, number> {
  const pages: Record<number, number> = {};
  for (let page = 0; page < bytes.length / pageBytes; page += 1) {
    const value = bytes[page * pageBytes] ?? 0;
    if (value !== 0) pages[page] = value;
  }
  return pages;
}
