import { chmod, mkdir } from "node:fs/promises";
import { join } from "node:path";

import { must, syncFolder } from "@roost/kit";

import type { BootImages } from "../images/image-catalog.ts";
import { FileDigests } from "../memory/checksum.ts";
import { syncFile, writeSynced } from "../memory/file-io.ts";
import type { Generation } from "../memory/generations.ts";
import { imageDamaged } from "../memory/image-damaged.ts";
import { ImagePaths } from "../memory/image-paths.ts";
import { syncImageFolders } from "../memory/link-generation.ts";
import { manifestFile, sealManifest, type GenerationVm, type LargeFile, type Manifest } from "../memory/manifest.ts";
import { writePointer } from "../memory/pointer.ts";
import { findDamage } from "../memory/verify.ts";
import type { SandboxContext } from "../sandbox/context.ts";
import { describeMismatch, whyNotRestorable } from "../sandbox/restorable.ts";
import { noVm, type SandboxRecord } from "../sandbox/sandbox-record.ts";
import { PlatformError } from "@roost/contract";
import { baseName, generationFileName, layerName, type Parcel } from "./parcel.ts";

export interface AssembleParts {
  readonly parcel: Parcel;
  /** With all its files in it */
  readonly folder: string;
  /** Where images are on this host, by digest */
  readonly paths: ReadonlyMap<string, string>;
  /** This host's: of a generation without memory nothing is bound to another one */
  readonly agentDisk: BootImages["agentDisk"];
  readonly moveId: string;
  readonly context: Pick<SandboxContext, "driver" | "accelerator">;
}

/**
 * Makes an image folder of what came: verifies every byte against what its manifests say, writes the manifests anew with the paths and file identities of this host, and makes all of
 * it durable. Generations keep their numbers and revisions. Answers the sandbox's record as it is to be here. Rejects with `image_damaged` where anything differs.
 */
export async function assemble(parts: AssembleParts): Promise<SandboxRecord> {
  const { parcel, folder, moveId, context } = parts;
  const { record, pointer, looseLayers } = parcel;
  const paths = new ImagePaths(folder);
  const digests = new FileDigests();
  const large = async (name: string, stated: LargeFile): Promise<LargeFile> => {
    const path = join(folder, name);
    await chmod(path, 0o444);
    await syncFile(path);
    const { sizeBytes, digest, identity } = await digests.of(path);
    if (sizeBytes !== stated.sizeBytes || digest !== stated.digest) {
      throw imageDamaged(`${name}: came with ${sizeBytes} bytes and digest ${digest}, not ${stated.sizeBytes} and ${stated.digest}`);
    }
    return { ...stated, identity };
  };
  for (const layer of looseLayers) await large(layerName(layer.file), layer);
  let current: { readonly manifest: Manifest; readonly digest: string } | undefined;
  for (const manifest of parcel.manifests) {
    const sealed = sealManifest(await localized(manifest, parts, large));
    const generation: Generation = {
      number: manifest.generation,
      revision: manifest.revision,
      folder: paths.generation(manifest.generation, manifest.revision),
      manifest: sealed.manifest,
      manifestDigest: sealed.digest,
    };
    await finish(folder, generation, sealed.text);
    const damage = await findDamage(paths, generation, digests, { deep: true, readsOnce: true });
    if (damage.length > 0) throw imageDamaged(damage.join("; "));
    if (manifest.generation === pointer?.generation) current = sealed;
  }
  if (current?.manifest.memory != null) {
    const why = await whyNotRestorable(current.manifest, context);
    if (why !== undefined) throw new PlatformError("image_incompatible", describeMismatch(why));
  }
  if (pointer !== null) {
    const { manifest, digest } = must(current, "the current generation came along");
    const { generation, revision } = manifest;
    await writePointer(paths, { generation, revision, newest: pointer.newest, manifest: digest }, () => undefined);
  }
  await syncImageFolders(paths);
  return {
    ...record,
    ...noVm,
    revision: record.revision + 1,
    transit: { moveId, arriving: true },
    machine: record.machine === null ? null : machineHere(record.machine, parts),
    disk: record.disk === null ? null : { ...record.disk, base: pathHere(record.disk.baseDigest, parts) },
  };
}

/** A manifest as it is on this host. */
async function localized(
  manifest: Manifest,
  parts: AssembleParts,
  large: (name: string, stated: LargeFile) => Promise<LargeFile>,
): Promise<Omit<Manifest, "checksum">> {
  const { checksum: _checksum, ...content } = manifest;
  const { memory, disk } = manifest;
  const layers: LargeFile[] = [];
  for (const layer of disk.layers) layers.push(await large(layerName(layer.file), layer));
  return {
    ...content,
    vm: memory === null ? { ...manifest.vm, agentDisk: shown(parts.agentDisk) } : machineHere(manifest.vm, parts),
    memory: memory === null ? null : { ...memory, base: { ...memory.base, ...(await large(baseName(memory.base.file), memory.base)) } },
    disk: { ...disk, base: { path: pathHere(disk.base.digest, parts), digest: disk.base.digest }, layers },
  };
}

/** The agent disk that is in a guest's memory must be the same bytes; where none of its is here, nothing that is here needs it. */
function machineHere(machine: GenerationVm, { paths, agentDisk }: AssembleParts): GenerationVm {
  const path = paths.get(machine.agentDisk.digest);
  return { ...machine, agentDisk: path === undefined ? shown(agentDisk) : { path, digest: machine.agentDisk.digest } };
}

function shown({ path, digest }: BootImages["agentDisk"]): GenerationVm["agentDisk"] {
  return { path, digest };
}

function pathHere(digest: string, { paths }: AssembleParts): string {
  return must(paths.get(digest), "an image that came or was here");
}

/** Makes a generation's own files what they are to be, durably. */
async function finish(folder: string, { folder: own, manifest }: Generation, text: string): Promise<void> {
  const files = manifest.memory === null ? [] : [manifest.memory.diff.file, manifest.memory.deviceState.file];
  for (const file of files) {
    const path = join(folder, generationFileName(manifest, file));
    await chmod(path, 0o400);
    await syncFile(path);
  }
  await mkdir(own, { recursive: true, mode: 0o700 });
  await writeSynced(join(own, manifestFile), text, 0o400);
  await syncFolder(own);
}
