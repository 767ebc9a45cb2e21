import { openSync, readSync } from "node:fs";

import { assert, MiB } from "@roost/kit";

import { pageBytes, type GuestMemory, type PageRun } from "./driver.ts";

/** Marks the first of the pages that hold a fake guest's state. */
const stateMagic = "roost fake guest";
const headerBytes = 64;

/**
 * Memory of a fake VM: a base file, and the pages written since in a map. What a fake guest knows is kept in its first pages as JSON, so it
 * goes where memory goes: into a diff, into a new base file, into another VM.
 */
export class FakeMemory {
  readonly sizeBytes: number;
  /** As a mapping does, it stays whatever becomes of the file's name. Null: zeros */
  readonly #baseFile: number | null;
  readonly #pages = new Map<number, Buffer>();

  constructor(options: { readonly memoryMib: number; readonly baseFile: string | null }) {
    this.sizeBytes = options.memoryMib * MiB;
    this.#baseFile = options.baseFile === null ? null : openSync(options.baseFile, "r");
  }

  /** Writes what the guest knows into its memory. Pages that an earlier, longer state took become zeros. */
  keep(state: unknown): void {
    const text = Buffer.from(JSON.stringify(state ?? null));
    const header = Buffer.alloc(headerBytes);
    header.write(stateMagic);
    header.writeUInt32LE(text.length, 32);
    const bytes = Buffer.concat([header, text]);
    const pageCount = Math.max(Math.ceil(bytes.length / pageBytes), this.#statePageCount());
    assert(pageCount * pageBytes <= this.sizeBytes, "a fake guest's state fits into its memory");
    const padded = Buffer.concat([bytes, Buffer.alloc(pageCount * pageBytes - bytes.length)]);
    for (let page = 0; page < pageCount; page += 1) {
      const content = padded.subarray(page * pageBytes, (page + 1) * pageBytes);
      // As a guest that does not touch a page leaves it out of the next diff
      if (!this.#page(page).equals(content)) this.#pages.set(page, Buffer.from(content));
    }
  }

  /** What the guest knows; undefined when its memory holds no state. */
  recall(): unknown {
    const length = this.#stateLength();
    if (length === undefined) return undefined;
    const bytes = Buffer.alloc(Math.ceil((headerBytes + length) / pageBytes) * pageBytes);
    this.read(0, bytes);
    return JSON.parse(bytes.subarray(headerBytes, headerBytes + length).toString("utf8")) as unknown;
  }

  /** A handle as `Vm.openMemory` gives one. */
  open(): GuestMemory {
    let isOpen = true;
    const opened = <T>(value: T): T => {
      assert(isOpen, "memory is not used after it was closed");
      return value;
    };
    return {
      sizeBytes: this.sizeBytes,
      changedPages: async () => opened(this.changedPages()),
      read: (firstPage, into) => opened(this.read(firstPage, into)),
      write: (firstPage, from) => opened(this.write(firstPage, from)),
      close: () => {
        isOpen = false;
      },
    };
  }

  changedPages(): PageRun[] {
    const runs: { firstPage: number; pageCount: number }[] = [];
    for (const page of [...this.#pages.keys()].toSorted((a, b) => a - b)) {
      const last = runs.at(-1);
      if (last !== undefined && last.firstPage + last.pageCount === page) last.pageCount += 1;
      else runs.push({ firstPage: page, pageCount: 1 });
    }
    return runs;
  }

  read(firstPage: number, into: Uint8Array): void {
    this.#check(firstPage, into);
    for (let offset = 0; offset < into.length; offset += pageBytes) into.set(this.#page(firstPage + offset / pageBytes), offset);
  }

  write(firstPage: number, from: Uint8Array): void {
    this.#check(firstPage, from);
    for (let offset = 0; offset < from.length; offset += pageBytes) {
      this.#pages.set(firstPage + offset / pageBytes, Buffer.from(from.subarray(offset, offset + pageBytes)));
    }
  }

  #check(firstPage: number, bytes: Uint8Array): void {
    assert(bytes.length % pageBytes === 0, "memory is read and written in pages");
    assert(firstPage >= 0 && firstPage * pageBytes + bytes.length <= this.sizeBytes, "pages lie within the memory");
  }

  #page(page: number): Buffer {
    return this.#pages.get(page) ?? this.#basePage(page);
  }

  #basePage(page: number): Buffer {
    const bytes = Buffer.alloc(pageBytes);
    if (this.#baseFile === null) return bytes;
    readSync(this.#baseFile, bytes, 0, pageBytes, page * pageBytes);
    return bytes;
  }

  #stateLength(): number | undefined {
    const first = this.#page(0);
    if (first.subarray(0, stateMagic.length).toString("latin1") !== stateMagic) return undefined;
    const length = first.readUInt32LE(32);
    return headerBytes + length <= this.sizeBytes ? length : undefined;
  }

  #statePageCount(): number {
    const length = this.#stateLength();
    return length === undefined ? 0 : Math.ceil((headerBytes + length) / pageBytes);
  }
}
