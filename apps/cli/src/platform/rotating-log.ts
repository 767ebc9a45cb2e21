import { closeSync, fstatSync, mkdirSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname } from "node:path";

import { MiB } from "@roost/kit";

/** A log file is put aside when it is longer than this in `bytes`. */
const fileBytesMax = 10 * MiB;
/** Files put aside that are kept: `roost.log.1` is the newest. Together a log takes at most 60 MiB. */
const oldFilesMax = 5;

/** A log of bounded size. Lines are written synchronously, so that a crash loses none. */
export class RotatingLog {
  readonly path: string;
  readonly #bytesMax: number;
  #file: number;
  #bytes: number;

  constructor(path: string, bytesMax = fileBytesMax) {
    this.path = path;
    this.#bytesMax = bytesMax;
    mkdirSync(dirname(path), { recursive: true, mode: 0o750 });
    this.#file = openSync(path, "a", 0o640);
    this.#bytes = fstatSync(this.#file).size;
  }

  write(line: string): void {
    if (this.#bytes > 0 && this.#bytes + line.length > this.#bytesMax) this.#rotate();
    try {
      this.#bytes += writeSync(this.#file, line);
    } catch {
      // a full disk must not take the platform down with it; the line is lost
    }
  }

  #rotate(): void {
    try {
      rmSync(`${this.path}.${oldFilesMax}`, { force: true });
      for (let number = oldFilesMax - 1; number >= 1; number -= 1) moveIfThere(`${this.path}.${number}`, `${this.path}.${number + 1}`);
      moveIfThere(this.path, `${this.path}.1`);
      const next = openSync(this.path, "a", 0o640);
      closeSync(this.#file);
      this.#file = next;
    } catch {
      // going on in the old file is better than no log
    }
    this.#bytes = 0;
  }
}

function moveIfThere(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}
