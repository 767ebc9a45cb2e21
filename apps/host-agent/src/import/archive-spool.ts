import { mkdir, open, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";

import { PlatformError } from "@roost/contract";

import { archiveIdleMs, archivePartBytesMax, archivesMax } from "./limits.ts";

export interface ArchivePart {
  readonly archiveId: string;
  readonly offset: number;
  readonly data: Uint8Array;
  readonly isLast: boolean;
}

const archiveIdPattern = /^[0-9a-f]{32}$/;
/** Of one that is still coming */
const partialSuffix = ".part";

/** Archives that were sent here to be imported: `<folder>/<id>`, `<id>.part` until it is whole. A restart forgets them; whoever sent one sends it again. */
export class ArchiveSpool {
  readonly #folder: string;
  readonly #bytesMax: number;
  /** Parts are written one after another */
  #queue: Promise<unknown> = Promise.resolve();

  constructor(folder: string, bytesMax: number) {
    this.#folder = folder;
    this.#bytesMax = bytesMax;
  }

  /** At start. */
  async recover(): Promise<void> {
    await rm(this.#folder, { recursive: true, force: true });
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
  }

  /** Takes a part. One that came before may come again. Rejects with `request_invalid` when there is a gap before it. */
  async put(part: ArchivePart): Promise<void> {
    const turn = this.#queue.then(async () => this.#put(part));
    this.#queue = turn.catch(() => undefined); // its caller hears of it
    return turn;
  }

  async #put({ archiveId, offset, data, isLast }: ArchivePart): Promise<void> {
    checkId(archiveId);
    if (data.length > archivePartBytesMax)
      throw new PlatformError("request_too_large", `a part of an archive has at most ${archivePartBytesMax} bytes`);
    if (offset + data.length > this.#bytesMax) {
      throw new PlatformError(
        "request_too_large",
        `an archive has at most ${this.#bytesMax} bytes; the operator's ROOST_IMPORT_MAX_MIB says so`,
      );
    }
    const path = join(this.#folder, archiveId);
    const partial = path + partialSuffix;
    if (offset === 0) {
      await this.removeIdle();
      const names = await readdir(this.#folder);
      const others = names.filter((name) => !name.startsWith(archiveId)).length;
      if (others >= archivesMax)
        throw new PlatformError("capacity_exhausted", "too many archives wait to be imported; try again later", { retryAfterSec: 30 });
      await rm(path, { force: true });
    }
    const file = await open(partial, offset === 0 ? "w" : "r+", 0o600).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") throw notThere(archiveId, error);
      throw error;
    });
    try {
      const { size } = await file.stat();
      if (offset > size)
        throw new PlatformError("request_invalid", `the archive has ${size} bytes so far, and this part begins at ${offset}`);
      for (let done = 0; done < data.length;) done += (await file.write(data, done, data.length - done, offset + done)).bytesWritten;
    } finally {
      await file.close();
    }
    if (isLast) await rename(partial, path);
  }

  /** The path of a whole archive. Rejects with `request_invalid` when there is none. */
  async path(archiveId: string): Promise<string> {
    checkId(archiveId);
    const path = join(this.#folder, archiveId);
    const now = new Date();
    await utimes(path, now, now).catch((error: unknown) => {
      throw notThere(archiveId, error);
    });
    return path;
  }

  /** Removes what nobody touched for long. */
  async removeIdle(nowMs: number = Date.now()): Promise<void> {
    for (const name of await readdir(this.#folder)) {
      const path = join(this.#folder, name);
      const status = await stat(path).catch(() => undefined); // removed meanwhile
      if (status !== undefined && nowMs - status.mtimeMs > archiveIdleMs) await rm(path, { force: true });
    }
  }
}

function checkId(archiveId: string): void {
  if (!archiveIdPattern.test(archiveId)) throw new PlatformError("request_invalid", "an archive's id is 32 hex digits");
}

function notThere(archiveId: string, cause: unknown): PlatformError {
  return new PlatformError("request_invalid", `there is no archive ${archiveId.slice(0, 64)} here; send it again from its beginning`, {
    cause,
  });
}
