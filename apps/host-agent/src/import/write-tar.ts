import type { FileHandle } from "node:fs/promises";
import type { Writable } from "node:stream";

import { MiB } from "@roost/kit";

import type { Folder, ImageTree, Inode } from "./image-tree.ts";
import { archiveEnd, capabilityAttribute, entryHeader, padding } from "./tar-writer.ts";

/** An extended attribute that the archive cannot carry to mke2fs. */
export interface LateAttribute {
  /** In the image, with a leading `/`, bytes as latin1 */
  readonly path: string;
  readonly name: string;
  readonly value: Buffer;
}

export interface WrittenTar {
  /** Of files that are in the archive */
  readonly attributes: readonly LateAttribute[];
}

/** Bytes that are collected before they are written */
const batchBytes = MiB / 2;

/** Writes a tree as one archive, in the order of its names: the same tree gives the same bytes. The stream is not ended. */
export async function writeTree(
  tree: ImageTree,
  output: Writable,
  how: { readonly timeSec: number; readonly signal: AbortSignal },
): Promise<WrittenTar> {
  const batch = new Batch(output, how.signal);
  const written = new Map<Inode, string>();
  const attributes: LateAttribute[] = [];
  const walk = async (folder: Folder, path: string): Promise<void> => {
    for (const [name, inode] of [...folder.children].sort(([one], [other]) => (one < other ? -1 : 1))) {
      how.signal.throwIfAborted();
      const inodePath = path + name;
      // mke2fs has made a folder of that name, and e2fsck wants one
      if (inodePath === "lost+found" && inode.kind !== "folder") continue;
      const first = inode.isLinked ? written.get(inode) : undefined;
      await batch.add(entryHeader(inodePath, inode, { timeSec: how.timeSec, ...(first === undefined ? {} : { linkTo: first }) }));
      if (first !== undefined) continue;
      if (inode.isLinked) written.set(inode, inodePath);
      collect(inode, `/${inodePath}`);
      await writeContent(inode, batch);
      if (isFolder(inode)) await walk(inode, `${inodePath}/`);
    }
  };
  const collect = (inode: Inode, path: string) => {
    for (const [name, value] of inode.attributes) if (name !== capabilityAttribute) attributes.push({ path, name, value });
  };
  await batch.add(entryHeader("./", tree.root, { timeSec: how.timeSec }));
  collect(tree.root, "/");
  await walk(tree.root, "");
  await batch.add(archiveEnd);
  await batch.flush();
  return { attributes };
}

function isFolder(inode: Inode): inode is Folder {
  return inode.kind === "folder";
}

async function writeContent({ file, pieces, size }: Inode, batch: Batch): Promise<void> {
  if (size === 0) return;
  let position = 0;
  for (const piece of pieces) {
    await batch.addZeros(piece.position - position);
    if (file !== null) await batch.addFrom(file, piece.offset, piece.length);
    position = piece.position + piece.length;
  }
  await batch.addZeros(size - position);
  await batch.add(padding(size));
}

/** What is needed of a disk for a tree's contents: blocks in `bytes`, and inodes. */
export function sizeOfTree(tree: ImageTree): { readonly bytes: number; readonly inodes: number } {
  const seen = new Set<Inode>();
  let bytes = 0;
  let inodes = 1;
  const walk = (folder: Folder) => {
    for (const inode of folder.children.values()) {
      if (inode.isLinked && seen.has(inode)) continue;
      if (inode.isLinked) seen.add(inode);
      inodes += 1;
      // With its holes: how a layer stores them must not decide how large the disk is
      bytes += Math.ceil(inode.size / blockBytes) * blockBytes + (inode.attributes.size > 0 ? blockBytes : 0);
      if (isFolder(inode)) {
        bytes += Math.ceil((inode.children.size * entryBytes) / blockBytes + 1) * blockBytes;
        walk(inode);
      }
    }
  };
  walk(tree.root);
  return { bytes, inodes };
}

/** Of ext4 in `bytes` */
const blockBytes = 4_096;
/** An entry of a folder in `bytes`, at most: header and name */
const entryBytes = 264;

/** Small pieces become large writes; waits where the reader is slower. */
class Batch {
  readonly #output: Writable;
  readonly #signal: AbortSignal;
  #parts: Buffer[] = [];
  #bytes = 0;

  constructor(output: Writable, signal: AbortSignal) {
    this.#output = output;
    this.#signal = signal;
  }

  async add(data: Buffer): Promise<void> {
    if (data.length === 0) return;
    this.#parts.push(data);
    this.#bytes += data.length;
    if (this.#bytes >= batchBytes) await this.flush();
  }

  async addZeros(length: number): Promise<void> {
    for (let left = length; left > 0; left -= zeros.length) {
      this.#signal.throwIfAborted();
      await this.add(left >= zeros.length ? zeros : zeros.subarray(0, left));
    }
  }

  async addFrom(file: FileHandle, offset: number, length: number): Promise<void> {
    for (let done = 0; done < length;) {
      this.#signal.throwIfAborted();
      const wanted = Math.min(batchBytes, length - done);
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(wanted), 0, wanted, offset + done);
      if (bytesRead === 0) throw new Error("an unpacked layer has become shorter");
      await this.add(buffer.subarray(0, bytesRead));
      done += bytesRead;
    }
  }

  async flush(): Promise<void> {
    if (this.#parts.length === 0) return;
    const data = Buffer.concat(this.#parts, this.#bytes);
    this.#parts = [];
    this.#bytes = 0;
    if (this.#output.destroyed || !this.#output.writable) throw new ReaderGone();
    if (this.#output.write(data)) return;
    await this.#drained();
    this.#signal.throwIfAborted();
  }

  /** Resolves when there is room again, or will never be. */
  async #drained(): Promise<void> {
    const [output, signal] = [this.#output, this.#signal];
    await new Promise<void>((resolve) => {
      const end = () => {
        for (const event of ["drain", "close"]) output.off(event, end);
        signal.removeEventListener("abort", end);
        resolve();
      };
      for (const event of ["drain", "close"]) output.once(event, end);
      signal.addEventListener("abort", end, { once: true });
      if (output.closed || signal.aborted) end();
    });
  }
}

/** Whoever reads the archive has ended; why, its exit tells. */
export class ReaderGone extends Error {
  override readonly name = "ReaderGone";

  constructor() {
    super("the program that reads the archive has ended");
  }
}

const zeros = Buffer.alloc(batchBytes);
