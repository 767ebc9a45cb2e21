import { createHmac, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { lstat, mkdir, open, readdir, readFile, rename, rm, utimes } from "node:fs/promises";
import { join } from "node:path";
import { Transform, type Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import { filesHashSchema, PlatformError } from "@roost/contract";
import { formatBytes, hour, syncFolder, writeFileDurably, type Logger } from "@roost/kit";

import { sameText } from "../proxy/same-text.ts";

/** How long in `ms` an upload may be begun with the URL that was given for it */
const tokenKeptMs = 24 * hour;
const secretBytes = 32;
const stagingPrefix = ".new-";
/** Room that an upload of unknown length asks for at once, in `bytes`: each time all archives are counted */
const roomBytes = 16 * 1024 * 1024;
const templateIdPattern = /^t[a-z0-9]{20}$/;

export interface BuildFilesOptions {
  /** Made when it is needed */
  readonly folder: string;
  /** All archives together, in `bytes`; one may have half of that */
  readonly bytesMax: number;
  readonly log: Logger;
  readonly now?: () => Date;
}

/**
 * Archives that were uploaded for builds, by template and by the hash that the uploader gave: `<template id>/<hash>`. What they hold is not looked at here. One appears whole or not at all; the
 * time of a file says when it was last of use.
 */
export class BuildFiles {
  readonly #options: BuildFilesOptions;
  /** Bytes that uploads under way may still write */
  #reserved = 0;
  #secret: Promise<Buffer> | undefined;

  constructor(options: BuildFilesOptions) {
    this.#options = options;
  }

  #now(): Date {
    return this.#options.now?.() ?? new Date();
  }

  async has(templateId: string, hash: string): Promise<boolean> {
    const path = this.#pathOf(templateId, hash);
    try {
      await utimes(path, this.#now(), this.#now());
      return true;
    } catch (error) {
      if (isMissing(error)) return false;
      throw error;
    }
  }

  /** Opens an archive for reading; undefined when it is not there. The caller ends the stream. */
  async open(templateId: string, hash: string): Promise<{ readonly stream: Readable; readonly sizeBytes: number } | undefined> {
    const path = this.#pathOf(templateId, hash);
    if (!(await this.has(templateId, hash))) return undefined;
    const { size } = await lstat(path);
    const stream = createReadStream(path);
    stream.on("error", () => undefined); // its reader's matter, who may not have begun
    return { stream, sizeBytes: size };
  }

  /** Takes an archive of exactly `length` bytes, or undefined: of any, in place of one that is there. Durable when this resolves; nothing is left of one that breaks off. */
  async put(templateId: string, hash: string, body: Readable, length: number | undefined, signal: AbortSignal): Promise<void> {
    const path = this.#pathOf(templateId, hash);
    const folder = join(this.#options.folder, templateId);
    const staging = join(folder, `${stagingPrefix}${randomBytes(8).toString("hex")}`);
    let room = 0;
    const makeRoom = async (bytes: number) => {
      await this.#reserve(room, bytes);
      room = bytes;
    };
    const makeRoomFor = async (bytes: number) => {
      await makeRoom(Math.max(bytes, Math.min(room + roomBytes, this.#archiveBytesMax)));
      return room;
    };
    try {
      if (length !== undefined) await makeRoom(length);
      await mkdir(folder, { recursive: true, mode: 0o700 });
      const meter = length === undefined ? new AnyLength(makeRoomFor) : new ExactLength(length);
      // Opened first: a stream that opens it itself may make it after it was ended and the file removed.
      await using file = await open(staging, "wx", 0o600);
      await pipeline(body, meter, file.createWriteStream(), { signal });
      await syncFile(staging);
      await utimes(staging, this.#now(), this.#now());
      await rename(staging, path);
      await syncFolder(folder);
      await syncFolder(this.#options.folder);
    } catch (error) {
      await rm(staging, { force: true });
      throw error;
    } finally {
      this.#reserved -= room;
    }
  }

  /** What lets whoever has it upload this archive, without an API key. */
  async uploadToken(templateId: string, hash: string): Promise<string> {
    const expires = Math.floor((this.#now().getTime() + tokenKeptMs) / 1000);
    return `${expires}.${await this.#sign(templateId, hash, expires)}`;
  }

  async checkToken(templateId: string, hash: string, token: string): Promise<boolean> {
    const [, expires = "", signature = ""] = /^(\d{1,12})\.([0-9a-f]{64})$/.exec(token) ?? [];
    if (signature === "" || Number(expires) * 1000 < this.#now().getTime()) return false;
    return sameText(signature, await this.#sign(templateId, hash, Number(expires)));
  }

  /** Removes archives that nobody has used since `before`, all of templates that are not among `listTemplateIds`, and what broken uploads left. */
  async removeUnused(before: Date, listTemplateIds: () => Promise<ReadonlySet<string>>): Promise<void> {
    const found = (await listNames(this.#options.folder)).filter((name) => templateIdPattern.test(name));
    const known = await listTemplateIds(); // after the folders: a template is there before its folder is
    for (const templateId of found) {
      const folder = join(this.#options.folder, templateId);
      if (!known.has(templateId)) {
        await rm(folder, { recursive: true, force: true });
        continue;
      }
      for (const name of await listNames(folder)) {
        const path = join(folder, name);
        const { mtime } = await lstat(path).catch(() => ({ mtime: new Date() })); // gone meanwhile: somebody else's business
        if (mtime >= before) continue;
        this.#options.log.info({ templateId, name }, "an archive of a build that nobody used is removed");
        await rm(path, { force: true });
      }
    }
  }

  get #archiveBytesMax(): number {
    return this.#options.bytesMax / 2;
  }

  /** Lets an archive that has room for `before` bytes have `bytes`. */
  async #reserve(before: number, bytes: number): Promise<void> {
    const { bytesMax, folder } = this.#options;
    if (bytes > this.#archiveBytesMax) {
      throw new PlatformError("request_too_large", `the files of a step may have at most ${formatBytes(this.#archiveBytesMax)}, packed`);
    }
    const more = bytes - before;
    this.#reserved += more; // before it is waited: two at once must not both find the same room
    try {
      const used = await usedBytes(folder);
      if (used + this.#reserved <= bytesMax) return;
    } catch (error) {
      this.#reserved -= more;
      throw error;
    }
    this.#reserved -= more;
    throw new PlatformError(
      "host_disk_full",
      `there is no room for more files of builds: all may have ${formatBytes(bytesMax)} (ROOST_BUILD_FILES_MIB)`,
      {
        retryAfterSec: 60,
      },
    );
  }

  async #sign(templateId: string, hash: string, expires: number): Promise<string> {
    this.#secret ??= this.#loadSecret().catch((error: unknown) => {
      this.#secret = undefined;
      throw error;
    });
    return createHmac("sha256", await this.#secret)
      .update(`${templateId}/${hash}/${expires}`)
      .digest("hex");
  }

  /** Kept, so that a restart leaves URLs valid. */
  async #loadSecret(): Promise<Buffer> {
    const path = join(this.#options.folder, "secret");
    const known = await readFile(path).catch((error: unknown) => {
      if (isMissing(error)) return undefined;
      throw error;
    });
    if (known !== undefined && known.length === secretBytes) return known;
    await mkdir(this.#options.folder, { recursive: true, mode: 0o700 });
    const made = randomBytes(secretBytes);
    await writeFileDurably(path, made, { mode: 0o600 });
    return made;
  }

  #pathOf(templateId: string, hash: string): string {
    if (!templateIdPattern.test(templateId) || !filesHashSchema.safeParse(hash).success) {
      throw new PlatformError("request_invalid", "files are named by the SHA-256 of what they hold, as 64 hex digits");
    }
    return join(this.#options.folder, templateId, hash);
  }
}

/** Lets exactly so many bytes through. */
class ExactLength extends Transform {
  #missing: number;

  constructor(length: number) {
    super();
    this.#missing = length;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null, data?: Buffer) => void): void {
    this.#missing -= chunk.length;
    if (this.#missing < 0) done(wrongLength());
    else done(null, chunk);
  }

  override _flush(done: (error?: Error | null) => void): void {
    done(this.#missing === 0 ? null : wrongLength());
  }
}

/** Asks for room before it lets bytes through that need it. */
class AnyLength extends Transform {
  readonly #makeRoomFor: (bytes: number) => Promise<number>;
  #bytes = 0;
  #room = 0;

  /** `makeRoomFor` resolves with how many bytes there is room for, at least as many as it was asked for. */
  constructor(makeRoomFor: (bytes: number) => Promise<number>) {
    super();
    this.#makeRoomFor = makeRoomFor;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null, data?: Buffer) => void): void {
    this.#bytes += chunk.length;
    if (this.#bytes <= this.#room) return done(null, chunk);
    this.#makeRoomFor(this.#bytes).then(
      (room) => {
        this.#room = room;
        done(null, chunk);
      },
      (error: unknown) => done(error instanceof Error ? error : new Error(String(error))),
    );
  }
}

function wrongLength(): PlatformError {
  return new PlatformError("request_invalid", "the body is not as long as content-length says");
}

async function usedBytes(folder: string): Promise<number> {
  let bytes = 0;
  for (const templateId of await listNames(folder)) {
    if (!templateIdPattern.test(templateId)) continue;
    for (const name of await listNames(join(folder, templateId))) {
      if (name.startsWith(stagingPrefix)) continue; // counted as reserved
      bytes += (await lstat(join(folder, templateId, name)).catch(() => ({ size: 0 }))).size;
    }
  }
  return bytes;
}

async function listNames(folder: string): Promise<string[]> {
  return readdir(folder).catch((error: unknown) => {
    if (isMissing(error)) return [];
    throw error;
  });
}

async function syncFile(path: string): Promise<void> {
  await using handle = await open(path, "r");
  await handle.sync();
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "ENOENT";
}
