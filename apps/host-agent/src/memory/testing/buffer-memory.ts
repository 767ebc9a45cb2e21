import { pageBytes, type GuestMemory, type PageRun } from "../../vmm/driver.ts";

/** Support for tests: a guest's memory in a buffer, that begins as the content of a base file and knows which pages were written since. */
export class BufferMemory implements GuestMemory {
  readonly bytes: Buffer;
  readonly #changed = new Set<number>();

  constructor(base: Buffer) {
    this.bytes = Buffer.from(base);
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  async changedPages(): Promise<PageRun[]> {
    const runs: { firstPage: number; pageCount: number }[] = [];
    for (const page of [...this.#changed].sort((a, b) => a - b)) {
      const last = runs.at(-1);
      if (last !== undefined && last.firstPage + last.pageCount === page) last.pageCount += 1;
      else runs.push({ firstPage: page, pageCount: 1 });
    }
    return runs;
  }

  read(firstPage: number, into: Uint8Array): void {
    into.set(this.bytes.subarray(firstPage * pageBytes, firstPage * pageBytes + into.length));
  }

  write(firstPage: number, from: Uint8Array): void {
    if (firstPage * pageBytes + from.length > this.bytes.length) throw new RangeError("beyond the end of memory");
    this.bytes.set(from, firstPage * pageBytes);
    for (let page = 0; page < from.length / pageBytes; page += 1) this.#changed.add(firstPage + page);
  }

  /** One page full of one byte. */
  fillPage(page: number, value: number): void {
    this.write(page, Buffer.alloc(pageBytes, value));
  }

  close(): void {
    this.#changed.clear();
  }
}
