import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import { join } from "node:path";

import { PlatformError, recipePackagesMax } from "@roost/contract";
import { debianRecipeVersion, ImageBuildError, makeDebianArchive } from "@roost/images";
import { MiB, Turns, type Logger } from "@roost/kit";

import type { HeldImages } from "../images/held-images.ts";
import type { BaseTemplate } from "../images/image-catalog.ts";
import { ArchiveSpool, type ArchivePart } from "./archive-spool.ts";
import { readArchive } from "./archive.ts";
import { BlobCache } from "./blob-cache.ts";
import { imageNameOf, ImageStore, type ImportedImage } from "./image-store.ts";
import { LayerDamaged, type PackedLayer } from "./layer.ts";
import { debianTimeoutMs, importsAtOnceMax, importsWaitingMax } from "./limits.ts";
import { makeImage, type ImportProgress, type MakeOptions, type Report } from "./make-image.ts";
import { digestOfText, noImageConfig } from "./manifest.ts";
import { parseReference } from "./reference.ts";
import { Registry, type Credentials, type ResolvedImage } from "./registry.ts";
import { SharedWork } from "./shared-work.ts";
import { unusable } from "./unusable.ts";

export type ImportSource =
  | { readonly kind: "registry"; readonly reference: string; readonly credentials: Credentials }
  | { readonly kind: "archive"; readonly archiveId: string }
  | { readonly kind: "debian"; readonly suite: string; readonly packages: readonly string[] };

export interface ImportRequest {
  readonly source: ImportSource;
  /** Of the disk in `MiB`; 0: as the base template's, or what the image needs */
  readonly diskSizeMib: number;
  /** Debian packages are looked for anew, instead of taking those of an earlier import */
  readonly refresh: boolean;
}

export interface ImportOutcome {
  readonly image: ImportedImage;
  /** Of the manifest, or of suite and package versions */
  readonly isNew: boolean;
}

export interface ImporterOptions {
  readonly stateDir: string;
  /** Unprivileged uid for what reads strangers' data */
  readonly uid: number;
  readonly cacheMib: number;
  readonly importMaxMib: number;
  readonly importedMib: number;
  readonly registries: ReadonlySet<string> | null;
  readonly insecureRegistries: ReadonlySet<string>;
  readonly checkRoom: (neededBytes: number) => Promise<void>;
  readonly log: Logger;
}

/** Makes templates' disks of OCI images and Debian packages. The same source is imported once, however many ask for it and when. */
export class Importer {
  readonly #options: ImporterOptions;
  readonly #store: ImageStore;
  readonly #cache: BlobCache;
  readonly #spool: ArchiveSpool;
  readonly #registry: Registry;
  readonly #turns = new Turns(importsAtOnceMax);
  readonly #shared = new SharedWork<ImportOutcome, ImportProgress>();
  #isClosed = false;

  constructor(options: ImporterOptions) {
    this.#options = options;
    const { stateDir, uid, log } = options;
    const bytesMax = options.importMaxMib * MiB;
    this.#store = new ImageStore(join(stateDir, "imported"), log);
    this.#cache = new BlobCache(join(stateDir, "import-cache"), uid, options.cacheMib * MiB);
    this.#spool = new ArchiveSpool(join(stateDir, "import-archives"), bytesMax);
    this.#registry = new Registry({ cache: this.#cache, uid, allowed: options.registries, insecure: options.insecureRegistries, bytesMax });
  }

  /** At start: removes what was under way. */
  async recover(): Promise<void> {
    await this.#store.recover();
    await this.#cache.recover();
    await this.#spool.recover();
  }

  list(): readonly ImportedImage[] {
    return this.#store.list();
  }

  get(name: string): ImportedImage | undefined {
    return this.#store.get(name);
  }

  /** The disk of an imported image, for a sandbox. */
  async template(name: string): Promise<BaseTemplate | undefined> {
    return this.#store.template(name);
  }

  async putArchivePart(part: ArchivePart): Promise<void> {
    if (part.offset === 0) await this.#options.checkRoom(part.data.length);
    await this.#spool.put(part);
  }

  /** Imports what is not here yet. Rejects with `image_unusable`, `registry_unreachable`, `request_invalid` or `host_disk_full`. */
  async import(request: ImportRequest, signal: AbortSignal, report: Report): Promise<ImportOutcome> {
    checkRequest(request);
    try {
      return await this.#import(request, signal, report);
    } catch (error) {
      signal.throwIfAborted();
      if (!this.#isClosed) throw error;
      throw new PlatformError("shutting_down", "the host agent is ending; import the image again in a moment", {
        cause: error,
        retryAfterSec: 1,
      });
    }
  }

  async #import(request: ImportRequest, signal: AbortSignal, report: Report): Promise<ImportOutcome> {
    const { source } = request;
    switch (source.kind) {
      case "registry":
        return this.#fromRegistry(request, source, signal, report);
      case "archive":
        return this.#fromArchive(request, source, signal, report);
      case "debian":
        return this.#fromDebian(request, source, signal, report);
    }
  }

  /** Removes images that nobody used for long. `needed` are the digests of disks that sandboxes and templates depend on. */
  async prune(needed: ReadonlySet<string>, held: Pick<HeldImages, "release">): Promise<void> {
    const removed = await this.#store.prune(needed, this.#options.importedMib * MiB);
    for (const { record, path } of removed) await held.release({ path, digest: record.digest });
    if (removed.length > 0)
      this.#options.log.info({ images: removed.map(({ record }) => record.name) }, "removed imported images that nobody used");
    await this.#spool.removeIdle();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#shared.close();
  }

  async #fromRegistry(
    request: ImportRequest,
    source: Extract<ImportSource, { kind: "registry" }>,
    signal: AbortSignal,
    report: Report,
  ): Promise<ImportOutcome> {
    const reference = parseReference(source.reference);
    report({ phase: "resolve", message: `asking ${reference.registry} for the image`, doneBytes: 0, totalBytes: 0 });
    const resolved = await this.#registry.resolve(reference, source.credentials, signal);
    const name = imageNameOf(resolved.digest, request.diskSizeMib);
    return this.#once(name, signal, report, async (workSignal, tell) => {
      const digests = [resolved.manifest.config, ...resolved.manifest.layers].map(({ digest }) => digest);
      const release = this.#cache.use(digests);
      const make = () => this.#fetchAndMake(name, resolved, request.diskSizeMib, workSignal, tell);
      try {
        return await make().catch(async (error: unknown) => {
          if (!(error instanceof LayerDamaged)) throw error;
          // It may have been damaged here: what the registry has may be whole
          for (const digest of digests) await this.#cache.remove(digest);
          return make();
        });
      } finally {
        release();
        await this.#cache.prune();
      }
    });
  }

  async #fetchAndMake(
    name: string,
    resolved: ResolvedImage,
    askedMib: number,
    signal: AbortSignal,
    report: Report,
  ): Promise<ImportedImage> {
    const totalBytes = resolved.manifest.layers.reduce((sum, layer) => sum + layer.size, 0);
    await this.#options.checkRoom(totalBytes);
    const tellFetched = (doneBytes: number, ofBytes: number) =>
      report({ phase: "fetch", message: `fetching ${resolved.manifest.layers.length} layers`, doneBytes, totalBytes: ofBytes });
    tellFetched(0, totalBytes);
    const { layers, config } = await this.#registry.fetch(resolved, tellFetched, signal);
    try {
      const record = { name, sourceDigest: resolved.digest, request: null, config: config.config };
      return await this.#make({ layers, askedMib, record, signal, report });
    } finally {
      for (const { source } of layers) await source.file.close();
    }
  }

  async #fromArchive(
    request: ImportRequest,
    source: Extract<ImportSource, { kind: "archive" }>,
    signal: AbortSignal,
    report: Report,
  ): Promise<ImportOutcome> {
    report({ phase: "resolve", message: "reading the archive", doneBytes: 0, totalBytes: 0 });
    const path = await this.#spool.path(source.archiveId);
    const digest = await withFile(path, async (file) => (await readArchive(file, signal)).digest);
    const name = imageNameOf(digest, request.diskSizeMib);
    return this.#once(name, signal, report, async (workSignal, tell) =>
      withFile(path, async (file) => {
        const { layers, config } = await readArchive(file, workSignal);
        const record = { name, sourceDigest: digest, request: null, config: config.config };
        return this.#make({ layers, askedMib: request.diskSizeMib, record, signal: workSignal, report: tell });
      }),
    );
  }

  async #fromDebian(
    request: ImportRequest,
    source: Extract<ImportSource, { kind: "debian" }>,
    signal: AbortSignal,
    report: Report,
  ): Promise<ImportOutcome> {
    const packages = [...new Set(source.packages)].sort();
    const key = digestOfText(JSON.stringify([debianRecipeVersion, source.suite, packages, request.diskSizeMib]));
    const present = request.refresh ? undefined : this.#store.byRequest(key);
    if (present !== undefined) {
      await this.#store.touch(present);
      return { image: present, isNew: false };
    }
    const { result, isFirst } = await this.#shared.join(key, { signal, onReport: report }, async (workSignal, tell) =>
      this.#inTurn(workSignal, async () => this.#installDebian(source.suite, packages, key, request.diskSizeMib, workSignal, tell)),
    );
    return { image: result.image, isNew: result.isNew && isFirst };
  }

  async #installDebian(
    suite: string,
    packages: readonly string[],
    key: string,
    askedMib: number,
    signal: AbortSignal,
    report: Report,
  ): Promise<ImportOutcome> {
    const { log } = this.#options;
    await this.#options.checkRoom(debianRoomBytes);
    const work = await this.#cache.createWorkFolder("root");
    try {
      const tell = (message: string) => report({ phase: "fetch", message, doneBytes: 0, totalBytes: 0 });
      tell(`installing Debian ${suite}`);
      const folder = join(this.#cache.folder, work);
      const made = await makeDebianArchive({ suite, packages, folder, signal, timeoutMs: debianTimeoutMs, onProgress: tell }).catch(
        (error: unknown) => {
          if (signal.aborted) throw error;
          if (error instanceof ImageBuildError) throw unusable(error.message, undefined, error);
          log.warn({ err: error, suite }, "Debian packages could not be installed");
          throw unusable(`Debian ${suite} with these packages cannot be installed; the host's log says why`, String(error), error);
        },
      );
      const sourceDigest = digestOfText(JSON.stringify([debianRecipeVersion, suite, packages, made.versions]));
      const name = imageNameOf(sourceDigest, askedMib);
      const present = this.#store.get(name);
      if (present !== undefined) {
        await this.#store.touch(present);
        return { image: present, isNew: false };
      }
      const image = await withFile(made.path, async (file) => {
        const { size: length } = await file.stat();
        const diffId = await digestOfRange(file, signal);
        const layer: PackedLayer = { source: { file, start: 0, length }, diffId };
        const record = { name, sourceDigest, request: key, config: noImageConfig };
        return makeImage({ ...this.#makeOptions(), folder, layers: [layer], askedMib, record, signal, report });
      });
      return { image, isNew: true };
    } finally {
      await this.#cache.removeWorkFolder(work);
    }
  }

  /** The image of that name: there already, being made for somebody else, or made now when its turn comes. */
  async #once(
    name: string,
    signal: AbortSignal,
    report: Report,
    work: (signal: AbortSignal, report: Report) => Promise<ImportedImage>,
  ): Promise<ImportOutcome> {
    const present = this.#store.get(name);
    if (present !== undefined) {
      await this.#store.touch(present);
      return { image: present, isNew: false };
    }
    const { result, isFirst } = await this.#shared.join(name, { signal, onReport: report }, async (workSignal, tell) =>
      this.#inTurn(workSignal, async () => ({ image: this.#store.get(name) ?? (await work(workSignal, tell)), isNew: true })),
    );
    return { image: result.image, isNew: isFirst };
  }

  async #inTurn<Result>(signal: AbortSignal, work: () => Promise<Result>): Promise<Result> {
    if (this.#turns.waitingCount >= importsWaitingMax) {
      throw new PlatformError("capacity_exhausted", "this host imports many images already; try again later", { retryAfterSec: 30 });
    }
    return this.#turns.take(work, signal);
  }

  async #make(options: Pick<MakeOptions, "layers" | "askedMib" | "record" | "signal" | "report">): Promise<ImportedImage> {
    const work = await this.#cache.createWorkFolder("root");
    try {
      return await makeImage({ ...this.#makeOptions(), ...options, folder: join(this.#cache.folder, work) });
    } finally {
      await this.#cache.removeWorkFolder(work);
    }
  }

  #makeOptions(): Pick<MakeOptions, "store" | "uid" | "bytesMax" | "checkRoom" | "log"> {
    const { uid, importMaxMib, checkRoom, log } = this.#options;
    return { store: this.#store, uid, bytesMax: importMaxMib * MiB, checkRoom, log };
  }
}

/** Free disk that an installation of Debian packages needs at least in `bytes` */
const debianRoomBytes = 2_048 * MiB;
/** Largest disk that may be asked for in `MiB` */
const diskSizeMibMax = 1_048_576;

function checkRequest({ source, diskSizeMib }: ImportRequest): void {
  if (diskSizeMib > diskSizeMibMax) throw new PlatformError("request_invalid", `a disk has at most ${diskSizeMibMax} MiB`);
  if (source.kind !== "debian") return;
  if (!/^[a-z][a-z0-9-]{0,31}$/.test(source.suite))
    throw new PlatformError("request_invalid", "suite must be a Debian suite such as bookworm");
  const isWell = source.packages.length <= recipePackagesMax && source.packages.every((each) => /^[a-z0-9][a-z0-9.+-]{1,127}$/.test(each));
  if (!isWell) throw new PlatformError("request_invalid", `packages must be at most ${recipePackagesMax} names of Debian packages`);
}

async function withFile<Result>(path: string, work: (file: Awaited<ReturnType<typeof open>>) => Promise<Result>): Promise<Result> {
  const file = await open(path, "r");
  try {
    return await work(file);
  } finally {
    await file.close();
  }
}

async function digestOfRange(file: Awaited<ReturnType<typeof open>>, signal: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of file.createReadStream({ start: 0, autoClose: false, highWaterMark: MiB, signal })) hash.update(chunk as Buffer);
  return `sha256:${hash.digest("hex")}`;
}
