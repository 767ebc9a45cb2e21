import { imageSetFileName, type ImageSet } from "@roost/contract";
import { MiB, must } from "@roost/kit";

import { agentDiskPart } from "./agent-disk/agent-disk-part.ts";
import { baseTemplateDiskMib, baseTemplatePart } from "./base-template/base-template-part.ts";
import { buildPart, type BuildOptions } from "./build-part.ts";
import { lockCache } from "./cache-lock.ts";
import { digestOfInputs } from "./digest.ts";
import { requireDiskSpace } from "./disk-space.ts";
import { ImageBuildError } from "./image-build-error.ts";
import { ImageCache } from "./image-cache.ts";
import { initramfsPart } from "./initramfs/initramfs-part.ts";
import { kernelPart } from "./kernel/kernel-part.ts";
import { nodePart } from "./node/node-part.ts";
import type { BuiltPart, Part } from "./part.ts";
import type { OnProgress } from "./progress.ts";
import { guestAgentFolder, guestAgentPackageFile } from "./recipe-folder.ts";

/** Rough space of the parts whose inputs are only known once the others are built, in `bytes`. */
const dependentPartsBytes = 220 * MiB;

export interface EnsureImagesOptions {
  /** Folder of the images; created when missing. */
  readonly cacheDir: string;
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
  /** Ask the package repositories again and rebuild everything from what is newest. */
  readonly refresh?: boolean;
}

/**
 * Makes the images of this checkout the current ones and returns them. Builds only what its inputs have no result for; when there is
 * nothing to do it only reads. Two at once are safe: the second waits for the first, and then has nothing to do.
 */
export async function ensureImages(options: EnsureImagesOptions): Promise<ImageSet> {
  const cache = new ImageCache(options.cacheDir);
  await cache.create();
  const current = await findCurrentImages(cache);
  if (current !== undefined && options.refresh !== true) {
    await cache.writeImageSet(current);
    return current;
  }
  if (process.getuid?.() !== 0)
    throw new ImageBuildError("building the images needs root (it installs a Debian into a folder); run it with sudo");

  await using _lock = await lockCache(cache.lockFile, {
    onWait: () => options.onProgress?.({ step: "images", message: "waiting for another build of them to end" }),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
  await cache.sweepTemporaryFolders();
  // A part that fails stops the others: what they were building goes, what they had finished stays for the next run.
  const failure = new AbortController();
  const signal = options.signal === undefined ? failure.signal : AbortSignal.any([options.signal, failure.signal]);
  const images = await buildImages(
    { cache, signal, refresh: options.refresh === true, onProgress: options.onProgress ?? (() => {}) },
    failure,
  );
  await cache.writeImageSet(images);
  return images;
}

/** The images as they were last built; for whoever starts sandboxes. Throws when there are none. */
export async function readImages(cacheDir: string): Promise<ImageSet> {
  const images = await new ImageCache(cacheDir).readImageSet();
  if (images === undefined) throw new ImageBuildError(`${cacheDir} has no usable ${imageSetFileName}; run \`npm run images\` first`);
  return images;
}

/** The image set that the inputs of now lead to, when all of it is built already. */
async function findCurrentImages(cache: ImageCache): Promise<ImageSet | undefined> {
  const find = async (part: Part) => cache.findPart(part.name, digestOfInputs(await part.inputs()));
  const [kernel, node, base] = await Promise.all([find(kernelPart), find(nodePart), find(baseTemplatePart)]);
  if (kernel === undefined || node === undefined || base === undefined) return undefined;
  const [initramfs, agentDisk] = await Promise.all([
    find(initramfsPart(cache.folder, kernel)),
    find(createAgentDiskPart(cache, kernel, node)),
  ]);
  if (initramfs === undefined || agentDisk === undefined) return undefined;
  return imageSet({ kernel, initramfs, agentDisk, base });
}

async function buildImages(options: BuildOptions, failure: AbortController): Promise<ImageSet> {
  await requireSpaceFor([kernelPart, nodePart, baseTemplatePart], options);
  const base = buildPart(baseTemplatePart, options);
  const system = (async () => {
    const kernel = await buildPart(kernelPart, options);
    const node = await buildPart(nodePart, options);
    const initramfs = await buildPart(initramfsPart(options.cache.folder, kernel), options);
    const agentDisk = await buildPart(createAgentDiskPart(options.cache, kernel, node), options);
    return { kernel, initramfs, agentDisk };
  })();
  // Both are waited for even when one fails: nobody may still be writing when the lock is let go.
  let first: unknown;
  const noteFailure = (error: unknown) => {
    first ??= error;
    failure.abort(error);
  };
  await Promise.allSettled([base.catch(noteFailure), system.catch(noteFailure)]);
  if (first !== undefined) throw first;
  return imageSet({ ...(await system), base: await base });
}

function createAgentDiskPart(cache: ImageCache, kernel: BuiltPart, node: BuiltPart): Part {
  return agentDiskPart({ cacheFolder: cache.folder, kernel, node, agentFolder: guestAgentFolder, agentPackageFile: guestAgentPackageFile });
}

async function requireSpaceFor(parts: readonly Part[], { cache, refresh }: BuildOptions): Promise<void> {
  let bytes = dependentPartsBytes;
  for (const part of parts) {
    const known = refresh ? undefined : await cache.findPart(part.name, digestOfInputs(await part.inputs()));
    if (known === undefined) bytes += part.spaceBytes;
  }
  await requireDiskSpace(cache.folder, bytes);
}

function imageSet(parts: { kernel: BuiltPart; initramfs: BuiltPart; agentDisk: BuiltPart; base: BuiltPart }): ImageSet {
  const file = ({ path, digest }: BuiltPart) => ({ path, digest });
  return {
    formatVersion: 1,
    kernel: { ...file(parts.kernel), version: must(parts.kernel.version, "version of the kernel") },
    initramfs: file(parts.initramfs),
    agentDisk: { ...file(parts.agentDisk), agentVersion: must(parts.agentDisk.version, "version of the agent disk") },
    templates: { base: { ...file(parts.base), diskSizeMib: baseTemplateDiskMib } },
  };
}
