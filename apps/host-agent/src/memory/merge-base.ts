import type { FileHandle } from "node:fs/promises";

import { pageBytes } from "../vmm/driver.ts";
import { digestBlockBytes, hasData, LargeDigest } from "./checksum.ts";
import { DiffReader, type CheckedRun } from "./diff-reader.ts";
import { openFile, readFully, writeFully } from "./file-io.ts";
import type { DiffInfo } from "./manifest.ts";
import { Pace } from "./pace.ts";
import { isZero } from "./zero-pages.ts";

export interface MergeOptions {
  readonly baseFile: string;
  /** Which of its blocks have to be read at all */
  readonly baseDataMap: string;
  readonly diffPath: string;
  readonly diff: DiffInfo;
  readonly memoryBytes: number;
  /** New file; must not exist */
  readonly output: string;
  readonly signal: AbortSignal | undefined;
}

export interface MergedBase {
  /** As `LargeDigest` */
  readonly digest: string;
  readonly dataMap: string;
  /** Pages that are not zero: what the file takes on disk */
  readonly dataPages: number;
}

/**
 * Writes a guest's memory, base file and diff together, as one sparse file: pages of zeros are holes. In slices, front to back, with the memory of a few
 * blocks. Not yet fsynced.
 */
export async function mergeBase(options: MergeOptions): Promise<MergedBase> {
  const { memoryBytes, signal } = options;
  await using file = await openFile(options.output, "wx", 0o444);
  await file.truncate(memoryBytes);
  await file.chmod(0o444); // whatever the umask: every VMM's uid reads it
  await using base = await openFile(options.baseFile, "r");
  const reader = await DiffReader.open(options.diffPath, { memoryBytes, info: options.diff });
  const runs = reader.runs();
  try {
    const overlay = new Overlay(runs);
    const digest = new LargeDigest();
    const pace = new Pace(signal);
    const buffer = Buffer.alloc(Math.min(digestBlockBytes, memoryBytes));
    let dataPages = 0;
    for (let position = 0; position < memoryBytes; position += digestBlockBytes) {
      const block = buffer.subarray(0, Math.min(digestBlockBytes, memoryBytes - position));
      if (hasData(options.baseDataMap, position / digestBlockBytes)) await readFully(base, block, position);
      else block.fill(0);
      await overlay.apply(block, position / pageBytes);
      await pace.turn();
      const written = await writeSparse(file, block, position);
      digest.add(block, written === 0);
      dataPages += written;
      await pace.turn();
    }
    return { ...digest.end(), dataPages };
  } finally {
    await runs.return();
    await reader.close();
  }
}

/** Lays the runs of a diff, which come in order, over blocks of memory, which come in order. A run may reach into the next block. */
class Overlay {
  readonly #runs: AsyncGenerator<CheckedRun, void, void>;
  #run: CheckedRun | undefined;
  #isBegun = false;

  constructor(runs: AsyncGenerator<CheckedRun, void, void>) {
    this.#runs = runs;
  }

  async apply(block: Buffer, firstPage: number): Promise<void> {
    const endPage = firstPage + block.length / pageBytes;
    if (!this.#isBegun) await this.#next();
    this.#isBegun = true;
    while (this.#run !== undefined && this.#run.firstPage < endPage) {
      const { firstPage: runFirst, pageCount, data } = this.#run;
      const from = Math.max(runFirst, firstPage);
      const to = Math.min(runFirst + pageCount, endPage);
      if (data === null) block.fill(0, (from - firstPage) * pageBytes, (to - firstPage) * pageBytes);
      else data.copy(block, (from - firstPage) * pageBytes, (from - runFirst) * pageBytes, (to - runFirst) * pageBytes);
      if (runFirst + pageCount > endPage) return; // the next block gets the rest
      await this.#next();
    }
  }

  async #next(): Promise<void> {
    const { value } = await this.#runs.next();
    this.#run = value ?? undefined;
  }
}

/** Writes the pages of a block that are not zero; how many there are. */
async function writeSparse(file: FileHandle, block: Buffer, position: number): Promise<number> {
  let written = 0;
  for (let start = 0; start < block.length;) {
    if (isZero(block, start)) {
      start += pageBytes;
      continue;
    }
    let end = start + pageBytes;
    while (end < block.length && !isZero(block, end)) end += pageBytes;
    await writeFully(file, block.subarray(start, end), position + start);
    written += (end - start) / pageBytes;
    start = end;
  }
  return written;
}
