import { digestOfText } from "./content.ts";

const rowIds = 5000;
const seeds = 2 ** 31;

interface Row {
  readonly text: string;
  readonly number: number;
}

/** One of the program's SQLite databases: its rows as its own connection sees them, and what a rollback would bring back. */
export class RowModel {
  readonly #name: string;
  #rows = new Map<number, Row>();
  #before: ReadonlyMap<number, Row> | undefined;

  constructor(name: string) {
    this.#name = name;
  }

  get inTransaction(): boolean {
    return this.#before !== undefined;
  }

  copyFrom(other: RowModel): void {
    this.#rows = new Map(other.#rows);
    this.#before = other.#before;
  }

  /** Without what a transaction that is still open did. */
  committed(): RowModel {
    const committed = new RowModel(this.#name);
    committed.#rows = new Map(this.#before ?? this.#rows);
    return committed;
  }

  insert(draw: (bound: number) => number): string {
    const count = draw(20) + 1;
    for (let index = 0; index < count; index += 1) {
      const [id, times, number] = [draw(rowIds), draw(8) + 1, draw(seeds)];
      this.#rows.set(id, { text: number.toString(16).repeat(times), number });
    }
    return `${this.#name} ${count}`;
  }

  delete(draw: (bound: number) => number): string {
    const [low, count] = [draw(rowIds), draw(200)];
    const gone = this.#between(low, low + count);
    for (const id of gone) this.#rows.delete(id);
    return `${this.#name} ${gone.length}`;
  }

  update(draw: (bound: number) => number): string {
    const [low, count, add] = [draw(rowIds), draw(500), draw(1000)];
    const changed = this.#between(low, low + count);
    for (const id of changed) {
      const row = this.#rows.get(id);
      if (row !== undefined) this.#rows.set(id, { ...row, number: row.number + add });
    }
    return `${this.#name} ${changed.length}`;
  }

  /** All rows deleted, and the deletion rolled back. */
  undone(): string {
    return `${this.#name} ${this.inTransaction ? "busy" : this.#rows.size}`;
  }

  /** Begins a transaction, or ends the one that is open. */
  transaction(draw: (bound: number) => number): string {
    const commits = draw(2) === 1;
    if (this.#before === undefined) {
      this.#before = new Map(this.#rows);
      return `${this.#name} BEGIN IMMEDIATE`;
    }
    if (!commits) this.#rows = new Map(this.#before);
    this.#before = undefined;
    return `${this.#name} ${commits ? "COMMIT" : "ROLLBACK"}`;
  }

  /** Number of rows and a digest of them. */
  rows(): [number, string] {
    const ids = [...this.#rows.keys()].toSorted((one, other) => one - other);
    const lines = ids.map((id) => `${id}|${this.#rows.get(id)?.text}|${this.#rows.get(id)?.number}\n`);
    return [lines.length, digestOfText(lines.join(""))];
  }

  #between(low: number, high: number): number[] {
    return [...this.#rows.keys()].filter((id) => id >= low && id <= high);
  }
}
