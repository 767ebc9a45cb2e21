import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";

import { pageBytes } from "../vmm/driver.ts";

/**
 * Format of `memory.diff`, version 1: the pages of a guest's memory that differ from a base file. Integers are little-endian.
 *
 *     0      header, one page; the rest of it is zeros
 *              0  magic `ROOSTDIF`        28  data pages, u32         48  CRC-32 of the run table, u32
 *              8  format version, u32     32  zero pages, u32         60  CRC-32 of the header page
 *             12  page size, u32          36  zero, u32                   with this field as zeros, u32
 *             16  memory size, u64        40  offset of the
 *             24  runs, u32                   run table, u64
 *     4096   data pages, in the order of their runs
 *     …      run table, 16 bytes a run, ascending and disjoint:
 *              0  first page, u32 · 4  pages, u32 (1 to 1024) · 8  kind, u32 (1 data, 2 zero) · 12  CRC-32 of the run's data, u32 (zero runs: 0)
 *
 * The table stands behind the data because it is known last: pages are written as they are read, while the guest waits.
 * CRC-32 is zlib's. The SHA-256 of header and table is the digest of the whole: they hold the checksums of all data.
 */
export const diffFormatVersion = 1;
const magic = Buffer.from("ROOSTDIF", "latin1");
export const headerBytes = pageBytes;
export const runBytes = 16;
/** Pages of one run: what is read, checked and written as a whole, 4 MiB */
export const runPagesMax = 1024;

export const runKinds = { data: 1, zero: 2 } as const;
export type RunKind = (typeof runKinds)[keyof typeof runKinds];

export interface DiffRun {
  readonly firstPage: number;
  readonly pageCount: number;
  readonly kind: RunKind;
  /** CRC-32 of its data; 0 for a zero run */
  readonly crc: number;
}

export interface DiffHeader {
  readonly memoryBytes: number;
  readonly runs: number;
  readonly dataPages: number;
  readonly zeroPages: number;
  readonly tableCrc: number;
}

export const tableOffset = (dataPages: number) => headerBytes + dataPages * pageBytes;

export function encodeHeader(header: DiffHeader): Buffer {
  const bytes = Buffer.alloc(headerBytes);
  magic.copy(bytes);
  bytes.writeUInt32LE(diffFormatVersion, 8);
  bytes.writeUInt32LE(pageBytes, 12);
  bytes.writeBigUInt64LE(BigInt(header.memoryBytes), 16);
  bytes.writeUInt32LE(header.runs, 24);
  bytes.writeUInt32LE(header.dataPages, 28);
  bytes.writeUInt32LE(header.zeroPages, 32);
  bytes.writeBigUInt64LE(BigInt(tableOffset(header.dataPages)), 40);
  bytes.writeUInt32LE(header.tableCrc, 48);
  bytes.writeUInt32LE(crc32(bytes), 60);
  return bytes;
}

/** Throws an `Error` that says what is wrong. */
export function decodeHeader(bytes: Buffer): DiffHeader {
  check(bytes.length === headerBytes && bytes.subarray(0, 8).equals(magic), "is no memory diff");
  const unsealed = Buffer.from(bytes);
  unsealed.writeUInt32LE(0, 60);
  check(crc32(unsealed) === bytes.readUInt32LE(60), "its header does not match its checksum");
  check(bytes.readUInt32LE(8) === diffFormatVersion, `has format version ${bytes.readUInt32LE(8)}`);
  check(bytes.readUInt32LE(12) === pageBytes, `has pages of ${bytes.readUInt32LE(12)} bytes`);
  const header = {
    memoryBytes: Number(bytes.readBigUInt64LE(16)),
    runs: bytes.readUInt32LE(24),
    dataPages: bytes.readUInt32LE(28),
    zeroPages: bytes.readUInt32LE(32),
    tableCrc: bytes.readUInt32LE(48),
  };
  const pages = header.memoryBytes / pageBytes;
  check(Number.isSafeInteger(pages) && header.dataPages + header.zeroPages <= pages, "has more pages than its memory");
  check(header.runs <= header.dataPages + header.zeroPages, "has more runs than pages");
  check(Number(bytes.readBigUInt64LE(40)) === tableOffset(header.dataPages), "its run table is not where it belongs");
  return header;
}

/** The runs of a diff, in order. */
export class RunTable {
  /** Pages in data runs and in zero runs */
  dataPages = 0;
  zeroPages = 0;
  readonly #firstPages: number[] = [];
  readonly #pageCounts: number[] = [];
  readonly #kinds: RunKind[] = [];
  readonly #crcs: number[] = [];

  get length(): number {
    return this.#firstPages.length;
  }

  run(index: number): DiffRun {
    return {
      firstPage: this.#firstPages[index] ?? 0,
      pageCount: this.#pageCounts[index] ?? 0,
      kind: this.#kinds[index] ?? runKinds.zero,
      crc: this.#crcs[index] ?? 0,
    };
  }

  /** Appends one page: to the last run where that goes on here, else as a new one. */
  addPage(page: number, kind: RunKind): void {
    const last = this.length - 1;
    const count = this.#pageCounts[last] ?? 0;
    if (last >= 0 && this.#kinds[last] === kind && (this.#firstPages[last] ?? 0) + count === page && count < runPagesMax) {
      this.#pageCounts[last] = count + 1;
      this.#count(kind, 1);
    } else this.addRun({ firstPage: page, pageCount: 1, kind, crc: 0 });
  }

  addRun(run: DiffRun): void {
    this.#firstPages.push(run.firstPage);
    this.#pageCounts.push(run.pageCount);
    this.#kinds.push(run.kind);
    this.#crcs.push(run.crc);
    this.#count(run.kind, run.pageCount);
  }

  setCrc(index: number, crc: number): void {
    this.#crcs[index] = crc;
  }

  encode(): Buffer {
    const bytes = Buffer.alloc(this.length * runBytes);
    for (let index = 0; index < this.length; index += 1) {
      const run = this.run(index);
      const at = index * runBytes;
      bytes.writeUInt32LE(run.firstPage, at);
      bytes.writeUInt32LE(run.pageCount, at + 4);
      bytes.writeUInt32LE(run.kind, at + 8);
      bytes.writeUInt32LE(run.crc, at + 12);
    }
    return bytes;
  }

  #count(kind: RunKind, pages: number): void {
    if (kind === runKinds.data) this.dataPages += pages;
    else this.zeroPages += pages;
  }
}

/** Throws an `Error` that says what is wrong. */
export function decodeTable(bytes: Buffer, header: DiffHeader): RunTable {
  check(bytes.length === header.runs * runBytes, "its run table has another length");
  check(crc32(bytes) === header.tableCrc, "its run table does not match its checksum");
  const table = new RunTable();
  const pages = header.memoryBytes / pageBytes;
  let end = 0;
  for (let at = 0; at < bytes.length; at += runBytes) {
    const [firstPage, pageCount] = [bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4)];
    const [kind, crc] = [bytes.readUInt32LE(at + 8), bytes.readUInt32LE(at + 12)];
    check(kind === runKinds.data || kind === runKinds.zero, `has a run of unknown kind ${kind}`);
    check(kind === runKinds.data || crc === 0, "has a zero run with a checksum");
    check(pageCount >= 1 && pageCount <= runPagesMax, `has a run of ${pageCount} pages`);
    check(firstPage >= end, "has runs that overlap or are not in order");
    end = firstPage + pageCount;
    check(end <= pages, "has a run beyond the end of memory");
    table.addRun({ firstPage, pageCount, kind, crc });
  }
  check(table.dataPages === header.dataPages && table.zeroPages === header.zeroPages, "its runs are not as many pages as its header says");
  return table;
}

export function diffDigest(header: Uint8Array, table: Uint8Array): string {
  return `sha256:${createHash("sha256").update(header).update(table).digest("hex")}`;
}

/** Some runs whose data lies together in the file. */
export interface DataWindow {
  /** Indexes of runs; end exclusive. Zero runs among them have no data. */
  readonly firstRun: number;
  readonly endRun: number;
  /** Where their data lies in the file in `bytes` */
  readonly offset: number;
  readonly length: number;
}

/** Data that is read at once in `bytes`: at least the longest run */
export const windowBytes = runPagesMax * pageBytes;

/** All runs in order, in windows of whole runs that are each read at once. */
export function* dataWindows(table: RunTable): Generator<DataWindow> {
  let window: DataWindow = { firstRun: 0, endRun: 0, offset: headerBytes, length: 0 };
  for (let index = 0; index < table.length; index += 1) {
    const { kind, pageCount } = table.run(index);
    const length = kind === runKinds.data ? pageCount * pageBytes : 0;
    if (window.length + length > windowBytes) {
      yield window;
      window = { firstRun: index, endRun: index, offset: window.offset + window.length, length: 0 };
    }
    window = { ...window, endRun: index + 1, length: window.length + length };
  }
  if (window.endRun > window.firstRun) yield window;
}

function check(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(what);
}
