import type { FileHandle } from "node:fs/promises";
import { posix } from "node:path";

import { z } from "zod";

import type { PackedLayer } from "./layer.ts";
import { documentBytesMax, layersMax } from "./limits.ts";
import { digestOfText, parse, parseJson, readConfig, readDocument, type ReadConfig } from "./manifest.ts";
import { readTar, type TarSource } from "./tar-reader.ts";
import { unusable } from "./unusable.ts";

/**
 * Images in a tar archive: an OCI layout, or what `docker save` writes. The archive is read where it lies and never unpacked: names in it only say where in the file something is.
 */
export interface ArchivedImage {
  /** Of the manifest; of the configuration where there is none with digests */
  readonly digest: string;
  /** Ranges of the archive's file */
  readonly layers: readonly PackedLayer[];
  readonly config: ReadConfig;
}

/** Files of an image's archive; layouts that many images share have more, and are for registries */
const membersMax = 20_000;
/** Links from a member to another, which `docker save` wrote for layers that are the same */
const linksMax = 8;

const savedSchema = z.array(z.object({ Config: z.string(), Layers: z.array(z.string()).max(layersMax) })).min(1);

type Member = { readonly offset: number; readonly length: number } | { readonly link: string };

/** Throws `image_unusable` for what is no image for linux/amd64. */
export async function readArchive(file: FileHandle, signal: AbortSignal): Promise<ArchivedImage> {
  const members = await listMembers({ file, start: 0, length: (await file.stat()).size }, signal);
  const archive = new Archive(file, members);
  if (members.has("index.json")) return readLayout(archive);
  if (members.has("manifest.json")) return readSaved(archive);
  throw unusable("the archive is no image: it has neither index.json (OCI layout) nor manifest.json (docker save)");
}

async function listMembers(source: TarSource, signal: AbortSignal): Promise<Map<string, Member>> {
  const magic = Buffer.alloc(4);
  await source.file.read(magic, 0, magic.length, 0);
  if ((magic[0] === 0x1f && magic[1] === 0x8b) || magic.readUInt32LE(0) === 0xfd2fb528) {
    throw unusable("the archive is compressed; decompress it first (its layers may be compressed)");
  }
  const members = new Map<string, Member>();
  for await (const entry of readTar(source, signal)) {
    if (members.size >= membersMax) throw unusable(`the archive has more than ${membersMax} files`);
    const path = posix.normalize(`/${entry.path}`).slice(1);
    if (entry.kind === "symlink") members.set(path, { link: posix.normalize(`/${posix.dirname(path)}/${entry.target}`).slice(1) });
    else if (entry.kind === "link") members.set(path, { link: posix.normalize(`/${entry.target}`).slice(1) });
    else if (entry.kind === "file" && entry.pieces.length <= 1) {
      const [piece] = entry.pieces;
      if (piece === undefined || piece.length === entry.size) members.set(path, { offset: piece?.offset ?? 0, length: piece?.length ?? 0 });
    }
  }
  return members;
}

class Archive {
  readonly #file: FileHandle;
  readonly #members: ReadonlyMap<string, Member>;

  constructor(file: FileHandle, members: ReadonlyMap<string, Member>) {
    this.#file = file;
    this.#members = members;
  }

  source(path: string): TarSource {
    let name = posix.normalize(`/${path}`).slice(1);
    for (let step = 0; step <= linksMax; step += 1) {
      const member = this.#members.get(name);
      if (member === undefined) break;
      if (!("link" in member)) return { file: this.#file, start: member.offset, length: member.length };
      name = member.link;
    }
    throw unusable("the archive lacks a file that its manifest names; make it again");
  }

  async text(path: string): Promise<string> {
    const { start, length } = this.source(path);
    if (length > documentBytesMax) throw unusable("a document in the archive is too large");
    const data = Buffer.alloc(length);
    for (let done = 0; done < length;) {
      const { bytesRead } = await this.#file.read(data, done, length - done, start + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return data.toString("utf8");
  }

  /** A document of an OCI layout, whose name is its digest. */
  async document(digest: string): Promise<string> {
    const text = await this.text(blobPath(digest));
    if (digestOfText(text) !== digest) throw unusable("a document in the archive has another digest than its name says; make it again");
    return text;
  }

  layers(paths: readonly string[], { diffIds }: ReadConfig): PackedLayer[] {
    return paths.map((path, index) => ({ source: this.source(path), diffId: diffIds[index] ?? "" }));
  }
}

function blobPath(digest: string): string {
  return `blobs/sha256/${digest.slice("sha256:".length)}`;
}

/** Indexes that lead to indexes, which Docker's builder makes */
const indexDepthMax = 4;

async function readLayout(archive: Archive): Promise<ArchivedImage> {
  let text = await archive.text("index.json");
  for (let step = 0; step < indexDepthMax; step += 1) {
    const document = readDocument(text);
    if (document.kind === "index") {
      text = await archive.document(document.manifest.digest);
      continue;
    }
    const { manifest } = document;
    const config = readConfig(await archive.document(manifest.config.digest), manifest);
    const paths = manifest.layers.map(({ digest }) => blobPath(digest));
    return { digest: digestOfText(text), layers: archive.layers(paths, config), config };
  }
  throw unusable("the archive's index leads to too many further indexes");
}

async function readSaved(archive: Archive): Promise<ArchivedImage> {
  const saved = parse(savedSchema, parseJson(await archive.text("manifest.json")), "the archive's manifest");
  const [image] = saved;
  if (image === undefined || saved.length > 1) throw unusable("the archive has several images; save one alone");
  const text = await archive.text(image.Config);
  const layers = image.Layers.map(() => ({ mediaType: "", digest: "", size: 0 }));
  const config = readConfig(text, { layers });
  return { digest: digestOfText(text), layers: archive.layers(image.Layers, config), config };
}
