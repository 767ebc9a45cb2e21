import type { FileHandle } from "node:fs/promises";
import { crc32 } from "node:zlib";

import { pageBytes } from "../vmm/driver.ts";
import {
  dataWindows,
  decodeHeader,
  decodeTable,
  diffDigest,
  headerBytes,
  runBytes,
  runKinds,
  tableOffset,
  windowBytes,
  type DataWindow,
  type RunTable,
} from "./diff-format.ts";
import { openFile, readFully } from "./file-io.ts";
import { imageDamaged, readError } from "./image-damaged.ts";
import type { DiffInfo } from "./manifest.ts";

export interface CheckedRun {
  readonly firstPage: number;
  readonly pageCount: number;
  /** Its pages, valid until the next run is asked for; null: zeros */
  readonly data: Buffer | null;
}

export interface DiffExpectation {
  /** Size of the memory it is a diff of in `bytes` */
  readonly memoryBytes: number;
  /** What the manifest says of it */
  readonly info?: DiffInfo;
}

/**
 * Reads a memory diff and hands out nothing that was not checked: header and table at `open`, each run before it is yielded.
 * What is wrong with the file is an `image_damaged`.
 */
export class DiffReader {
  readonly info: DiffInfo;
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #table: RunTable;

  private constructor(path: string, file: FileHandle, table: RunTable, info: DiffInfo) {
    this.#path = path;
    this.#file = file;
    this.#table = table;
    this.info = info;
  }

  static async open(path: string, expected: DiffExpectation): Promise<DiffReader> {
    let file: FileHandle | undefined;
    try {
      file = await openFile(path, "r");
      const { table, info } = await readTable(file, expected);
      return new DiffReader(path, file, table, info);
    } catch (error) {
      await file?.close();
      throw readError(path, error);
    }
  }

  async *runs(): AsyncGenerator<CheckedRun, void, void> {
    const windows = dataWindows(this.#table);
    const size = Math.min(windowBytes, this.info.pages * pageBytes);
    const buffers = [Buffer.allocUnsafeSlow(size), Buffer.allocUnsafeSlow(this.info.pages * pageBytes > size ? size : 0)] as const;
    let next = this.#load(windows.next().value, buffers[0]);
    for (let turn = 1; ; turn += 1) {
      const loaded = await next;
      if (loaded === undefined) return;
      next = this.#load(windows.next().value, turn % 2 === 0 ? buffers[0] : buffers[1]); // read ahead while this one is worked on
      next.catch(() => undefined); // looked at in the next turn, unless the caller stops before
      yield* this.#checked(loaded.window, loaded.data);
    }
  }

  /** Reads everything and hands out nothing. */
  async verify(signal?: AbortSignal): Promise<void> {
    for await (const _run of this.runs()) signal?.throwIfAborted();
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async #load(window: DataWindow | void, buffer: Buffer): Promise<{ readonly window: DataWindow; readonly data: Buffer } | undefined> {
    if (window === undefined) return undefined;
    const data = buffer.subarray(0, window.length);
    try {
      await readFully(this.#file, data, window.offset);
    } catch (error) {
      throw readError(this.#path, error);
    }
    return { window, data };
  }

  *#checked(window: DataWindow, bytes: Buffer): Generator<CheckedRun> {
    let offset = 0;
    for (let index = window.firstRun; index < window.endRun; index += 1) {
      const { firstPage, pageCount, kind, crc } = this.#table.run(index);
      if (kind === runKinds.zero) yield { firstPage, pageCount, data: null };
      else {
        const data = bytes.subarray(offset, offset + pageCount * pageBytes);
        offset += data.length;
        const actual = crc32(data);
        if (actual !== crc) throw imageDamaged(`${this.#path}: pages ${firstPage}+${pageCount} have checksum ${actual}, not ${crc}`);
        yield { firstPage, pageCount, data };
      }
    }
  }
}

async function readTable(file: FileHandle, expected: DiffExpectation): Promise<{ readonly table: RunTable; readonly info: DiffInfo }> {
  const headerPage = Buffer.alloc(headerBytes);
  await readFully(file, headerPage, 0);
  const header = decodeHeader(headerPage);
  if (header.memoryBytes !== expected.memoryBytes)
    throw new Error(`is of ${header.memoryBytes} bytes of memory, not ${expected.memoryBytes}`);
  const { size } = await file.stat();
  const sizeBytes = tableOffset(header.dataPages) + header.runs * runBytes;
  if (size !== sizeBytes) throw new Error(`has ${size} bytes, not ${sizeBytes}`);
  const tableBytes = Buffer.alloc(header.runs * runBytes);
  await readFully(file, tableBytes, tableOffset(header.dataPages));
  const table = decodeTable(tableBytes, header);
  const info: DiffInfo = {
    sizeBytes,
    digest: diffDigest(headerPage, tableBytes),
    runs: header.runs,
    pages: header.dataPages,
    zeroPages: header.zeroPages,
  };
  if (expected.info !== undefined && expected.info.digest !== info.digest) {
    throw new Error(`has digest ${info.digest}, not ${expected.info.digest}`);
  }
  return { table, info };
}
