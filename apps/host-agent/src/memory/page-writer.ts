import type { FileHandle } from "node:fs/promises";

import { assert, MiB, must } from "@roost/kit";

import { writeFully } from "./file-io.ts";

/** Written at once in `bytes`: large enough that the calls do not count, small enough to stay in the CPU's cache */
const chunkBytes = MiB;
/** Chunks that may be on their way to the page cache while the next one is filled */
const chunksMax = 8;

interface Chunk {
  readonly bytes: Buffer;
  /** Resolves when it may be filled again; never rejects */
  written: Promise<void>;
}

/**
 * Writes a file from front to back while the caller produces the next bytes: the writes run in other threads, and a disk that is slow to take them
 * holds up the caller but not the event loop. At most `chunksMax` chunks of memory.
 */
export class PageWriter {
  readonly #file: FileHandle;
  readonly #chunks: Chunk[] = [];
  #position: number;
  #current = 0;
  #filled = 0;
  #failure: unknown;

  constructor(file: FileHandle, position: number) {
    this.#file = file;
    this.#position = position;
  }

  /** Where the next bytes go; empty when `flush` is due. */
  room(): Buffer {
    return this.#chunk().bytes.subarray(this.#filled);
  }

  /** So many bytes were put where `room` said. */
  add(length: number): void {
    this.#filled += length;
    assert(this.#filled <= chunkBytes, "no more is added than there was room for");
  }

  /** Everything is in the page cache, or this rejects with what went wrong. */
  async end(): Promise<void> {
    if (this.#filled > 0) await this.flush();
    await this.#settle();
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Waits for writes under way, so that the file may be closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#settle();
  }

  async #settle(): Promise<void> {
    for (const chunk of this.#chunks) await chunk.written;
  }

  /** Hands on what was added, and waits for room again. */
  async flush(): Promise<void> {
    const chunk = this.#chunk();
    chunk.written = writeFully(this.#file, chunk.bytes.subarray(0, this.#filled), this.#position).catch((error: unknown) => {
      this.#failure ??= error;
    });
    this.#position += this.#filled;
    this.#filled = 0;
    this.#current = (this.#current + 1) % chunksMax;
    await this.#chunk().written;
    if (this.#failure !== undefined) throw this.#failure;
  }

  #chunk(): Chunk {
    if (this.#current === this.#chunks.length) this.#chunks.push({ bytes: Buffer.allocUnsafeSlow(chunkBytes), written: Promise.resolve() });
    return must(this.#chunks[this.#current], "the chunk that is filled");
  }
}
