import { constants } from "node:fs";
import { chmod, copyFile, lstat, mkdir, open, rm, symlink } from "node:fs/promises";
import { dirname, isAbsolute, join, posix } from "node:path";

import { fileBytesMax } from "@roost/contract";
import { Parser, type ReadEntry } from "tar";

import { CliError } from "../failure.ts";
import { printable } from "../output/printable.ts";

/**
 * Unpacks an archive that a sandbox sent: hostile input. Nothing is ever written outside the destination.
 *
 * - Names must be relative and without `..`; anything else ends the copy.
 * - No folder on the way to a file may be a symbolic link, whoever made it. Links of the archive are made last, when
 *   nothing is written any more, and only those that lead to a place inside.
 * - Hard links become copies of files from the same archive; devices and pipes are skipped; setuid bits are dropped.
 * - Entries and bytes are bounded.
 */

const folderTypes: ReadonlySet<string> = new Set(["Directory", "GNUDumpDir"]);
const fileTypes: ReadonlySet<string> = new Set(["File", "OldFile", "ContiguousFile"]);
/** Entries of one archive; more are no folder somebody wants copied. */
const entriesMax = 2_000_000;

export interface Extracted {
  readonly files: number;
  readonly bytes: number;
  readonly skipped: readonly { readonly name: string; readonly why: string }[];
}

export async function extractTar(source: AsyncIterable<Buffer>, destination: string): Promise<Extracted> {
  const extraction = new Extraction(destination);
  const parser = new Parser({ strict: true, gzip: false, brotli: false, zstd: false, maxDecompressionRatio: 1 });
  let failure: unknown;
  let done: () => void = () => undefined;
  const ended = new Promise<void>((resolve) => {
    done = resolve;
  });
  const fail = (error: unknown) => {
    failure ??= error;
    done();
  };
  // The parser offers an entry when it has read the one before to its end; which is still being written then, perhaps.
  parser.on("entry", (entry: ReadEntry) => void extraction.take(entry).catch(fail));
  parser.on("error", (error: Error) => fail(new CliError(`the sandbox sent a broken archive: ${error.message}`, { cause: error })));
  parser.on("end", done);
  try {
    for await (const chunk of source) {
      if (failure !== undefined) break;
      if (!parser.write(chunk)) await Promise.race([new Promise((resolve) => parser.once("drain", resolve)), ended]);
    }
    if (failure === undefined) {
      parser.end();
      await ended;
      await extraction.settled();
    }
  } catch (error) {
    fail(error);
  }
  if (failure === undefined) return extraction.finish();
  await extraction.abandon();
  throw failure;
}

class Extraction {
  readonly #root: string;
  /** Folders that are known to be folders, by relative path. */
  readonly #folders = new Set<string>();
  /** Those of them that were not there before: only their modes are ours to set. */
  readonly #made = new Set<string>();
  /** Files of this archive, by relative path. */
  readonly #files = new Set<string>();
  readonly #modes = new Map<string, number>();
  readonly #links: { readonly name: string; readonly target: string }[] = [];
  readonly #skipped: { name: string; why: string }[] = [];
  #entries = 0;
  #bytes = 0;
  #current: ReadEntry | undefined;
  #last: Promise<void> = Promise.resolve();

  constructor(root: string) {
    this.#root = root;
  }

  /** Unpacks an entry after those before it. */
  async take(entry: ReadEntry): Promise<void> {
    const work = this.#last.then(async () => {
      this.#current = entry;
      try {
        await this.#take(entry);
      } finally {
        this.#current = undefined;
      }
    });
    this.#last = work;
    await work;
  }

  /** Resolves when no entry is being written any more; rejects when one could not be. */
  async settled(): Promise<void> {
    await this.#last;
  }

  /** Lets go of the entry that is open. */
  async abandon(): Promise<void> {
    this.#current?.on("error", () => undefined);
    this.#current?.destroy(new Error("the copy failed")); // its reader, which waits for bytes that will not come
    await this.#last.catch(() => undefined); // what failed is known already
  }

  async #take(entry: ReadEntry): Promise<void> {
    this.#entries += 1;
    if (this.#entries > entriesMax) throw new CliError(`the sandbox sent more than ${entriesMax} files`);
    const name = safeName(entry.path);
    if (folderTypes.has(entry.type)) {
      await this.#makeFolder(name);
      if (this.#made.has(name)) this.#modes.set(name, (entry.mode ?? 0o755) & 0o777);
      entry.resume();
    } else if (fileTypes.has(entry.type)) {
      await this.#writeFile(name, entry);
    } else if (entry.type === "Link") {
      entry.resume();
      await this.#copyLinked(name, safeName(entry.linkpath ?? ""));
    } else if (entry.type === "SymbolicLink") {
      entry.resume();
      await this.#makeFolder(parentOf(name));
      this.#links.push({ name, target: entry.linkpath ?? "" });
    } else {
      entry.resume();
      this.#skip(name, "not a file");
    }
  }

  async #writeFile(name: string, entry: ReadEntry): Promise<void> {
    await this.#prepare(name);
    const path = join(this.#root, name);
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    await using file = await open(path, flags, (entry.mode ?? 0o644) & 0o777);
    for await (const chunk of entry as unknown as AsyncIterable<Buffer>) {
      this.#count(chunk.length);
      await file.writeFile(chunk);
    }
    if (entry.mtime !== undefined) await file.utimes(entry.mtime, entry.mtime);
    this.#files.add(name);
  }

  async #copyLinked(name: string, from: string): Promise<void> {
    if (!this.#files.has(from)) {
      this.#skip(name, "a hard link to something that was not copied");
      return;
    }
    await this.#prepare(name);
    this.#count((await lstat(join(this.#root, from))).size);
    await copyFile(join(this.#root, from), join(this.#root, name), constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
    this.#files.add(name);
  }

  /** Makes room for a file: its folder is there, an older file or link of its name is not. */
  async #prepare(name: string): Promise<void> {
    if (name === "") throw new CliError("the sandbox sent a file without a name");
    await this.#makeFolder(parentOf(name));
    const path = join(this.#root, name);
    const present = await lstat(path).catch(() => undefined);
    if (present?.isDirectory() === true) throw new CliError(`cannot replace the folder ${printable(path)} by a file`);
    if (present !== undefined) await rm(path);
    this.#files.delete(name);
  }

  async #makeFolder(name: string): Promise<void> {
    if (this.#folders.has(name)) return;
    if (name !== "") await this.#makeFolder(parentOf(name));
    const path = join(this.#root, name);
    const present = await lstat(path).catch(() => undefined);
    if (present === undefined) {
      await mkdir(path, { recursive: name === "", mode: 0o755 });
      if (name !== "") this.#made.add(name);
    } else if (name !== "" && !present.isDirectory()) throw new CliError(`${printable(path)} is in the way: it is not a folder`);
    this.#folders.add(name);
  }

  #count(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes > fileBytesMax) throw new CliError(`the sandbox sent more than ${fileBytesMax} bytes`);
  }

  #skip(name: string, why: string): void {
    this.#skipped.push({ name, why });
  }

  /** Links and modes, after the last write. */
  async finish(): Promise<Extracted> {
    await this.#makeFolder("");
    for (const { name, target } of this.#links) {
      if (name === "" || !staysInside(name, target)) {
        this.#skip(name, "a link that leads outside");
        continue;
      }
      const path = join(this.#root, name);
      const present = await lstat(path).catch(() => undefined);
      if (present?.isDirectory() === true) {
        this.#skip(name, "a folder of that name is there");
        continue;
      }
      if (present !== undefined) await rm(path);
      await symlink(target, path);
    }
    // deepest first, so that a folder that may not be entered does not hide those in it
    for (const [name, mode] of [...this.#modes].reverse()) {
      const path = join(this.#root, name);
      if ((await lstat(path)).isDirectory()) await chmod(path, mode | 0o700);
    }
    return { files: this.#files.size, bytes: this.#bytes, skipped: this.#skipped };
  }
}

const parentOf = (name: string) => (name.includes("/") ? dirname(name) : "");

/** The name relative to the destination, without `.` parts; refuses all that could lead elsewhere. */
export function safeName(path: string): string {
  const parts = path.split("/").filter((part) => part !== "" && part !== ".");
  if (isAbsolute(path) || parts.includes("..") || path.includes("\0")) {
    throw new CliError(`the sandbox sent a file that wants to be outside the destination: ${printable(path)}`);
  }
  return parts.join("/");
}

/**
 * Whether a link leads to a place inside, also when it goes through other links of the archive: climbing is allowed only
 * at the beginning of the target, where the folders passed are real ones.
 */
export function staysInside(name: string, target: string): boolean {
  if (target === "" || isAbsolute(target) || target.includes("\0")) return false;
  const parts = target.split("/").filter((part) => part !== "" && part !== ".");
  const climbs = parts.findIndex((part) => part !== "..");
  if (climbs >= 0 && parts.slice(climbs).includes("..")) return false;
  return !posix.join(parentOf(name), target).split("/").includes("..");
}
