import { createHash } from "node:crypto";

import { SeededRandom } from "@roost/testing";

import { content, crc32, digest, overwritten } from "./content.ts";
import { RowModel } from "./row-model.ts";

/** What `guest-program.py` holds after the same commands. Its constants and operations are that file's, in the same order. */
const pageBytes = 4096;
const blockKeys = 48;
const regionPages = 1024;
const tableKeys = 2000;
const fileNames = 64;
const sharedBytes = 1 << 20;
const seeds = 2 ** 31;
const zeroPage = Buffer.alloc(pageBytes);

/** A number in [0, bound). */
type Draw = (bound: number) => number;
type Operation = (draw: Draw) => string;

/** Of `check`: what the program says and the model predicts. Digests, or with `detail` what they are of. */
export type ProgramState = Readonly<Record<string, unknown>>;

/**
 * Predicts the state of the marathon's guest program.
 *
 * Buffers are never changed in place, so a clone costs nothing: keep one for each fork, snapshot and generation.
 */
export class MarathonModel {
  #applied = 0;
  #operations = 0;
  #echoes = 0;
  #chain = "";
  readonly #blocks = new Map<number, Buffer>();
  readonly #region: Buffer[] = Array.from({ length: regionPages }, () => zeroPage);
  readonly #table = new Map<string, readonly number[]>();
  readonly #files = new Map<string, Buffer>();
  #orphan: Buffer = Buffer.alloc(0);
  #shared: Buffer = Buffer.alloc(sharedBytes);
  readonly #databases: readonly [RowModel, RowModel] = [new RowModel("wal"), new RowModel("rollback")];

  /** Draws below the bound; in `guest-program.py` in the same order. */
  readonly #operationsByBound: readonly (readonly [number, Operation])[] = [
    [10, (draw) => this.#allocate(draw)],
    [15, (draw) => this.#free(draw)],
    [21, (draw) => this.#zero(draw)],
    [29, (draw) => this.#rewrite(draw)],
    [37, (draw) => this.#regionWrite(draw)],
    [41, (draw) => this.#regionZero(draw)],
    [45, (draw) => this.#regionZero(draw)], // given back to the kernel, which gives zeros for it
    [51, (draw) => this.#changeTable(draw)],
    [59, (draw) => this.#fileWrite(draw)],
    [63, (draw) => this.#fileDelete(draw)],
    [67, (draw) => this.#fileAppend(draw)],
    [71, (draw) => this.#fileTruncate(draw)],
    [74, (draw) => this.#fileWriteAt(draw)],
    [77, (draw) => this.#fileRename(draw)],
    [80, (draw) => this.#orphanWrite(draw)],
    [84, (draw) => this.#sharedWrite(draw)],
    [89, (draw) => this.#database(draw).insert(draw)],
    [92, (draw) => this.#database(draw).delete(draw)],
    [94, (draw) => this.#database(draw).update(draw)],
    [96, (draw) => this.#database(draw).undone()],
    [98, (draw) => this.#database(draw).transaction(draw)],
    [99, (draw) => this.#talk(draw)],
    [100, (draw) => this.#fileName(draw)], // fsync: nothing changes
  ];

  /** The command `apply SEED COUNT`; answers what the program answers. */
  apply(seed: number, count: number): { readonly applied: number; readonly chain: string } {
    const random = new SeededRandom(seed);
    const draw: Draw = (bound) => random.integer(bound);
    for (; count > 0; count -= 1) {
      const kind = draw(100);
      const operation = this.#operationsByBound.find(([bound]) => kind < bound)?.[1];
      if (operation === undefined) throw new Error(`no operation has the number ${kind}`);
      this.#chain = createHash("sha256")
        .update(`${this.#chain}${kind} ${operation(draw)}`)
        .digest("hex");
      this.#operations += 1;
    }
    this.#applied += 1;
    return { applied: this.#applied, chain: this.#chain };
  }

  /** `state` of the answer to `check`. */
  state(detail = false): ProgramState {
    const [wal, rollback] = this.#databases;
    const sharedCrc = crc32(this.#shared);
    const parts = {
      blocks: [...this.#blocks].toSorted(([one], [other]) => one - other).map(([key, block]) => [key, block.length, crc32(block)]),
      region: this.#region.map((page) => crc32(page)),
      table: sorted(this.#table),
      files: sorted(this.#files).map(([name, value]) => [name, value.length, crc32(value)]),
      orphan: [this.#orphan.length, crc32(this.#orphan)],
      shared: [sharedCrc, sharedCrc],
      wal: wal.rows(),
      rollback: rollback.rows(),
      open: [wal.inTransaction, rollback.inTransaction],
    };
    const told = detail ? parts : Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, digest(part)]));
    return { applied: this.#applied, operations: this.#operations, chain: this.#chain, echoes: this.#echoes, ...told };
  }

  /** A model that goes its own way from here: of a fork, a snapshot, a generation. */
  clone(): MarathonModel {
    const clone = new MarathonModel();
    clone.#applied = this.#applied;
    clone.#operations = this.#operations;
    clone.#echoes = this.#echoes;
    clone.#chain = this.#chain;
    for (const [key, block] of this.#blocks) clone.#blocks.set(key, block);
    clone.#region.splice(0, regionPages, ...this.#region);
    for (const [key, values] of this.#table) clone.#table.set(key, values);
    for (const [name, value] of this.#files) clone.#files.set(name, value);
    clone.#orphan = this.#orphan;
    clone.#shared = this.#shared;
    for (const index of [0, 1] as const) clone.#databases[index].copyFrom(this.#databases[index]);
    return clone;
  }

  /** What is left when the program was killed, or the guest booted, and it was started again on the same folder: files and committed rows. */
  restarted(): MarathonModel {
    const fresh = new MarathonModel();
    for (const [name, value] of this.#files) fresh.#files.set(name, value);
    for (const index of [0, 1] as const) fresh.#databases[index].copyFrom(this.#databases[index].committed());
    return fresh;
  }

  #setBlock(key: number, block: Buffer): string {
    this.#blocks.set(key, block);
    return `${key} ${block.length} ${crc32(block)}`;
  }

  #allocate(draw: Draw): string {
    const [key, length, seed] = [draw(blockKeys), (draw(64) + 1) * pageBytes + draw(pageBytes), draw(seeds)];
    return this.#setBlock(key, content(seed, length));
  }

  #free(draw: Draw): string {
    const key = draw(blockKeys);
    return `${key} ${this.#blocks.delete(key) ? "True" : "False"}`;
  }

  #zero(draw: Draw): string {
    const [key, at, pages] = [draw(blockKeys), draw(seeds), draw(16) + 1];
    const block = this.#blocks.get(key);
    if (block === undefined) return `${key} none`;
    const start = Math.trunc((at % block.length) / pageBytes) * pageBytes;
    const end = Math.min(start + pages * pageBytes, block.length);
    return this.#setBlock(key, overwritten(block, start, Buffer.alloc(end - start)));
  }

  #rewrite(draw: Draw): string {
    const [key, at, length, seed] = [draw(blockKeys), draw(seeds), draw(20_000), draw(seeds)];
    const block = this.#blocks.get(key);
    if (block === undefined) return `${key} none`;
    const start = at % block.length;
    return this.#setBlock(key, overwritten(block, start, content(seed, Math.min(length, block.length - start))));
  }

  #regionWrite(draw: Draw): string {
    const [page, pages, seed] = [draw(regionPages), draw(32) + 1, draw(seeds)];
    const end = Math.min(page + pages, regionPages);
    const piece = content(seed, (end - page) * pageBytes);
    for (let index = page; index < end; index += 1) {
      this.#region[index] = piece.subarray((index - page) * pageBytes, (index - page + 1) * pageBytes);
    }
    return `${page} ${crc32(piece)}`;
  }

  #regionZero(draw: Draw): string {
    const [page, pages] = [draw(regionPages), draw(32) + 1];
    const end = Math.min(page + pages, regionPages);
    this.#region.fill(zeroPage, page, end);
    return `${page} ${end}`;
  }

  #changeTable(draw: Draw): string {
    const [key, action, length, number] = [`k${draw(tableKeys)}`, draw(4), draw(50), draw(seeds)];
    if (action === 0) this.#table.delete(key);
    else if (action === 1) this.#table.set(key, [...(this.#table.get(key) ?? []), number]);
    else
      this.#table.set(
        key,
        Array.from({ length }, (_unused, index) => number + index),
      );
    return `${key} ${this.#table.size}`;
  }

  #fileName(draw: Draw): string {
    return `f${draw(fileNames)}`;
  }

  /** Sets what a file holds when it is there; says what it holds then. */
  #changeFile(name: string, change: (value: Buffer) => Buffer): string {
    const value = this.#files.get(name);
    if (value !== undefined) this.#files.set(name, change(value));
    return this.#saidOf(name);
  }

  #saidOf(name: string): string {
    const value = this.#files.get(name);
    return value === undefined ? `${name} none` : `${name} ${value.length} ${crc32(value)}`;
  }

  #fileWrite(draw: Draw): string {
    const [name, length, seed] = [this.#fileName(draw), draw(200_000), draw(seeds)];
    this.#files.set(name, content(seed, length));
    return this.#saidOf(name);
  }

  #fileDelete(draw: Draw): string {
    const name = this.#fileName(draw);
    this.#files.delete(name);
    return name;
  }

  #fileAppend(draw: Draw): string {
    const [name, length, seed] = [this.#fileName(draw), draw(20_000), draw(seeds)];
    return this.#changeFile(name, (value) => overwritten(value, value.length, content(seed, length)));
  }

  #fileTruncate(draw: Draw): string {
    const [name, length] = [this.#fileName(draw), draw(200_000)];
    return this.#changeFile(name, (value) =>
      length <= value.length ? value.subarray(0, length) : overwritten(value, length, zeroPage.subarray(0, 0)),
    );
  }

  #fileWriteAt(draw: Draw): string {
    const [name, offset, length, seed] = [this.#fileName(draw), draw(250_000), draw(30_000), draw(seeds)];
    return this.#changeFile(name, (value) => overwritten(value, offset, content(seed, length + 1)));
  }

  #fileRename(draw: Draw): string {
    const [from, to] = [this.#fileName(draw), this.#fileName(draw)];
    const value = this.#files.get(from);
    if (value !== undefined) {
      this.#files.delete(from);
      this.#files.set(to, value);
    }
    return this.#saidOf(to);
  }

  #orphanWrite(draw: Draw): string {
    const [offset, length, seed] = [draw(400_000), draw(30_000), draw(seeds)];
    this.#orphan = overwritten(this.#orphan, offset, content(seed, length + 1));
    return String(this.#orphan.length);
  }

  #sharedWrite(draw: Draw): string {
    const [offset, length, seed] = [draw(sharedBytes), draw(65_536), draw(seeds)];
    const piece = content(seed, Math.min(length, sharedBytes - offset));
    this.#shared = overwritten(this.#shared, offset, piece);
    return `${offset} ${crc32(piece)}`;
  }

  #database(draw: Draw): RowModel {
    return this.#databases[draw(2) === 0 ? 0 : 1];
  }

  #talk(draw: Draw): string {
    draw(seeds);
    this.#echoes += 1;
    return "true";
  }
}

function sorted<Value>(map: ReadonlyMap<string, Value>): (readonly [string, Value])[] {
  return [...map].toSorted(([one], [other]) => (one < other ? -1 : 1));
}
