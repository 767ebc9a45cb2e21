import { closeSync, constants, openSync, readFileSync, statSync, writeSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";

import { assert, KiB } from "@roost/kit";

import { pageBytes, type GuestMemory, type PageRun } from "../vmm/driver.ts";
import { readFullySync } from "./file-io.ts";
import { findMapping } from "./process-maps.ts";

export interface ProcessMemoryOptions {
  readonly pid: number;
  /** `starttime` of /proc/PID/stat: another process that got the same pid is refused */
  readonly startTicks?: string;
  /** File that the process maps privately as the guest's memory */
  readonly baseFile: string;
}

/** Pagemap read at once in `bytes`, for 256 MiB of guest memory: read and scanned in about 1 ms, then other work gets its turn. */
const pagemapChunkBytes = 512 * KiB;
const pagemapEntryBytes = 8;

/**
 * The memory of a guest through /proc/PID of its VMM.
 *
 * The kernel knows which pages of a private file mapping the process has changed: those it has copied on write. No log of writes, no cost while the
 * guest runs. The VMM may be hostile: the worst it can do is to hand over other pages of its own, because everything here is read from and written
 * to its address space only, at an address range that the kernel says is a private mapping of the base file.
 */
export async function openProcessMemory(options: ProcessMemoryOptions): Promise<GuestMemory> {
  const files: number[] = [];
  const open = (path: string, flags: number): number => {
    const file = openSync(path, flags);
    files.push(file);
    return file;
  };
  try {
    // An open folder of /proc stays the one process's: everything below it fails once that has ended, also when its pid is used again
    const folder = `/proc/self/fd/${open(`/proc/${options.pid}`, constants.O_RDONLY | constants.O_DIRECTORY)}`;
    if (options.startTicks !== undefined && startTicksOf(readFileSync(`${folder}/stat`, "latin1")) !== options.startTicks) {
      throw new Error(`process ${options.pid} is not the one it was`);
    }
    const memory = open(`${folder}/mem`, constants.O_RDWR);
    const pagemap = open(`${folder}/pagemap`, constants.O_RDONLY);
    const base = statSync(options.baseFile, { bigint: true });
    const mapping = findMapping(folder, base);
    return new ProcessMemory(files, memory, pagemap, mapping.start, Number(base.size));
  } catch (error) {
    for (const file of files) closeSync(file);
    throw error;
  }
}

class ProcessMemory implements GuestMemory {
  readonly sizeBytes: number;
  readonly #files: readonly number[];
  readonly #memory: number;
  readonly #pagemap: number;
  readonly #start: number;
  #isClosed = false;

  constructor(files: readonly number[], memory: number, pagemap: number, start: number, sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.#files = files;
    this.#memory = memory;
    this.#pagemap = pagemap;
    this.#start = start;
  }

  async changedPages(): Promise<PageRun[]> {
    const runs: PageRun[] = [];
    const buffer = Buffer.alloc(pagemapChunkBytes);
    const pages = this.sizeBytes / pageBytes;
    const pagesPerChunk = pagemapChunkBytes / pagemapEntryBytes;
    const scan = new ChangeScan(runs);
    for (let first = 0; first < pages; first += pagesPerChunk) {
      assert(!this.#isClosed, "closed memory is not read");
      const count = Math.min(pagesPerChunk, pages - first);
      const position = (this.#start / pageBytes + first) * pagemapEntryBytes;
      readFullySync(this.#pagemap, buffer.subarray(0, count * pagemapEntryBytes), position);
      scan.add(first, buffer, count);
      if (first + count < pages) await nextTurn();
    }
    scan.end(pages);
    return runs;
  }

  read(firstPage: number, into: Uint8Array): void {
    readFullySync(this.#memory, into, this.#address(firstPage, into.length));
  }

  write(firstPage: number, from: Uint8Array): void {
    const address = this.#address(firstPage, from.length);
    for (let done = 0; done < from.length;) {
      const written = writeSync(this.#memory, from, done, from.length - done, address + done);
      if (written === 0) throw new Error("the VMM's memory cannot be written");
      done += written;
    }
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const file of this.#files) closeSync(file);
  }

  #address(firstPage: number, length: number): number {
    assert(!this.#isClosed, "closed memory is neither read nor written");
    assert(Number.isInteger(firstPage) && firstPage >= 0 && length % pageBytes === 0, "memory is read and written in whole pages");
    assert(firstPage * pageBytes + length <= this.sizeBytes, "nothing beyond the guest's memory is read or written");
    return this.#start + firstPage * pageBytes;
  }
}

/**
 * Finds copied pages in pagemap entries. Of their top three bits 63 is "present", 62 "swapped", 61 "page of a file": a page of a private mapping
 * that is present or swapped, and not the file's, is a copy.
 */
class ChangeScan {
  readonly #runs: PageRun[];
  /** First page of the run that is open, or -1 */
  #open = -1;

  constructor(runs: PageRun[]) {
    this.#runs = runs;
  }

  add(firstPage: number, entries: Buffer, count: number): void {
    const words = new Uint32Array(entries.buffer, entries.byteOffset, count * 2);
    let open = this.#open;
    for (let index = 0; index < count; index += 1) {
      const top = (words[index * 2 + 1] ?? 0) >>> 29; // the upper half of a little-endian entry
      const isChanged = (top & 1) === 0 && top !== 0;
      if (isChanged === open >= 0) continue;
      if (isChanged) open = firstPage + index;
      else {
        this.#runs.push({ firstPage: open, pageCount: firstPage + index - open });
        open = -1;
      }
    }
    this.#open = open;
  }

  end(pages: number): void {
    if (this.#open >= 0) this.#runs.push({ firstPage: this.#open, pageCount: pages - this.#open });
    this.#open = -1;
  }
}

function startTicksOf(stat: string): string | undefined {
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]; // fields after the command's name, which may hold anything
}
