import { rm } from "node:fs/promises";
import { join } from "node:path";

import { PlatformError } from "@roost/contract";
import { assert } from "@roost/kit";

import { sha256 } from "./checksum.ts";
import { openFile, readFully } from "./file-io.ts";
import type { Generation } from "./generations.ts";
import { diskError } from "./image-damaged.ts";
import {
  deviceStateBytesMax,
  deviceStateFile,
  diffFile,
  type DiffInfo,
  type GenerationKind,
  type GenerationVm,
  type Manifest,
} from "./manifest.ts";
import { describeBase, describeLayers, publish, type ImageContext } from "./publish.ts";

/** What a commit needs beside the files in staging. */
export interface CommitParts {
  /** Whose memory and disk it is; null: a template's */
  readonly sandboxId: string | null;
  readonly vm: GenerationVm;
  readonly versions: Readonly<Record<string, string>>;
  /** `base`: name in `memory/`; null: the disk alone */
  readonly memory: { readonly base: string; readonly diff: DiffInfo } | null;
  readonly disk: {
    readonly sizeMib: number;
    readonly base: { readonly path: string; readonly digest: string };
    /** Names in `disk/`, oldest first; all frozen */
    readonly layers: readonly string[];
  };
}

/** A generation that is being made. */
export class StagedGeneration {
  readonly number: number;
  /** Where the diff and the device state go; neither file exists yet */
  readonly diffPath: string;
  readonly deviceStatePath: string;
  readonly #context: ImageContext;
  readonly #folder: string;
  readonly #kind: GenerationKind;
  readonly #committedLayers: ReadonlySet<string>;
  readonly #exclusive: <T>(work: () => Promise<T>) => Promise<T>;
  #onEnd: (() => void) | undefined;

  constructor(options: {
    readonly context: ImageContext;
    readonly folder: string;
    readonly number: number;
    readonly kind: GenerationKind;
    /** Layers that earlier generations name: durable already */
    readonly committedLayers: ReadonlySet<string>;
    /** Runs work while nothing else changes the image folder */
    readonly exclusive: <T>(work: () => Promise<T>) => Promise<T>;
    /** Called once, when it is committed or discarded */
    readonly onEnd: () => void;
  }) {
    this.number = options.number;
    this.diffPath = join(options.folder, diffFile);
    this.deviceStatePath = join(options.folder, deviceStateFile);
    this.#context = options.context;
    this.#folder = options.folder;
    this.#kind = options.kind;
    this.#committedLayers = options.committedLayers;
    this.#exclusive = options.exclusive;
    this.#onEnd = options.onEnd;
  }

  /**
   * Makes it durable and current; from then on it is what the sandbox goes back to. When it rejects everything is as before and staging is gone:
   * `host_disk_full`, or what else went wrong.
   */
  async commit(parts: CommitParts): Promise<Generation> {
    assert(this.#onEnd !== undefined, "a staged generation is committed once");
    try {
      const content = await this.#describe(parts);
      const newLayers = parts.disk.layers.filter((layer) => !this.#committedLayers.has(layer));
      const publication = { staging: this.#folder, content, newLayers, becomesCurrent: true };
      const generation = await this.#exclusive(async () => publish(this.#context, publication));
      this.#end();
      return generation;
    } catch (error) {
      await this.discard();
      throw diskError(error);
    }
  }

  /** Removes what was staged. Idempotent; does nothing after a commit. */
  async discard(): Promise<void> {
    if (this.#onEnd === undefined) return;
    try {
      await rm(this.#folder, { recursive: true, force: true });
    } finally {
      this.#end();
    }
  }

  #end(): void {
    this.#onEnd?.();
    this.#onEnd = undefined;
  }

  async #describe(parts: CommitParts): Promise<Omit<Manifest, "checksum">> {
    return {
      format: "roost-memory-image",
      formatVersion: 1,
      generation: this.number,
      revision: 1,
      kind: this.#kind,
      timeCreatedMs: Date.now(),
      sandboxId: parts.sandboxId,
      vm: parts.vm,
      memory:
        parts.memory === null
          ? null
          : {
              base: await describeBase(this.#context, parts.memory.base),
              diff: { file: diffFile, ...parts.memory.diff },
              deviceState: await this.#describeDeviceState(),
            },
      disk: { sizeMib: parts.disk.sizeMib, base: parts.disk.base, layers: await describeLayers(this.#context, parts.disk.layers) },
      versions: { ...parts.versions },
    };
  }

  /** Also makes it durable, and what it is from now on. */
  async #describeDeviceState() {
    await using file = await openFile(this.deviceStatePath, "r");
    const { size } = await file.stat();
    if (size === 0 || size > deviceStateBytesMax) {
      throw new PlatformError("internal", "the VM's device state has an odd size", { detail: `${this.deviceStatePath}: ${size} bytes` });
    }
    const bytes = Buffer.alloc(size);
    await readFully(file, bytes, 0);
    await file.chmod(0o400);
    await file.sync();
    return { file: deviceStateFile, sizeBytes: size, digest: sha256(bytes) };
  }
}
