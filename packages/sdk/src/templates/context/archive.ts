import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { open, stat } from "node:fs/promises";
import { PassThrough, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";

import { pack, type Header, type Pack } from "tar-stream";

import { RoostError } from "../../errors.ts";
import type { ContextEntry } from "./entry.ts";

/**
 * Archives of files for a build. Their name is a hash of what they hold: path, permissions, size and content or target of each entry. Owners and times are not in it, and not in the
 * archive either, so that the same files are the same archive on every machine.
 */

/** Raise when the same files come to another archive */
const formatVersion = 1;
/** Time of everything in an archive: a fixed one, and late enough for formats that know no time before 1980 (zip) */
const archiveTime = new Date(Date.UTC(2000, 0, 1));
/** Speed over size: most of what is copied goes over a fast network once */
const gzipLevel = 4;
/** Bytes of a file that are read at once */
const readBytes = 256 * 1024;

/** Something that is sent to the platform before a build. */
export type BuildArchive =
  /** Files of a context, or of an OCI layout, which is packed as it is: its layers are compressed already */
  | { readonly kind: "packed"; readonly entries: readonly ContextEntry[]; readonly isCompressed: boolean }
  /** An archive that is there */
  | { readonly kind: "file"; readonly file: string; readonly size: number };
type PackedArchive = BuildArchive & { readonly kind: "packed" };

export interface ReadingOptions {
  readonly signal?: AbortSignal | undefined;
  /** Told of each piece that was read, in bytes */
  readonly onBytes?: ((bytes: number) => void) | undefined;
}

type EntryHeader = Partial<Header> & Pick<Header, "name">;

/** SHA-256 as hex, by which the platform knows it. Reads every file once. */
export async function hashArchive(archive: BuildArchive, options: ReadingOptions = {}): Promise<string> {
  if (archive.kind === "file") {
    const hash = createHash("sha256");
    for await (const chunk of readFile(archive, options)) hash.update(chunk);
    return hash.digest("hex");
  }
  const hash = beginHash(archive);
  for (const entry of archive.entries) {
    options.signal?.throwIfAborted();
    const content = createHash("sha256");
    if (entry.kind === "file") for await (const chunk of readFile(entry, options)) content.update(chunk);
    else if (entry.kind === "inline") content.update(entry.content);
    addTo(hash, entry, content.digest("hex"));
  }
  return hash.digest("hex");
}

/** Writes the archive to a file of this machine and answers its length in bytes. Fails when what it reads is not what `expectedHash` was made of. */
export async function packArchive(
  archive: PackedArchive,
  expectedHash: string,
  path: string,
  options: ReadingOptions = {},
): Promise<number> {
  const tar = pack();
  const compression = archive.isCompressed ? createGzip({ level: gzipLevel }) : new PassThrough();
  // Opened first: a stream that opens it itself may make it after it was ended and whoever wanted it removed it.
  await using file = await open(path, "wx", 0o600);
  const writing = pipeline(tar, compression, file.createWriteStream(), { signal: options.signal });
  const hash = beginHash(archive);
  const adding = (async () => {
    for (const entry of archive.entries) addTo(hash, entry, await addEntry(tar, entry, options));
    tar.finalize();
  })();
  adding.catch((error: unknown) => tar.destroy(error instanceof Error ? error : new Error(String(error))));
  // whichever fails first is why: the other one then fails of it
  await Promise.all([adding, writing]);
  if (hash.digest("hex") !== expectedHash) throw changed("the files of a COPY");
  return (await stat(path)).size;
}

/** The bytes of an archive that is there. The last ones are kept back until it is sure that all were what `expectedHash` was made of. */
export async function* readArchive(
  archive: BuildArchive & { readonly kind: "file" },
  expectedHash: string,
  options: ReadingOptions,
): AsyncGenerator<Buffer, void, void> {
  const hash = createHash("sha256");
  let kept: Buffer | undefined;
  for await (const chunk of readFile(archive, options)) {
    if (kept !== undefined) yield kept;
    hash.update(chunk);
    kept = chunk;
  }
  if (hash.digest("hex") !== expectedHash) throw changed(archive.file);
  if (kept !== undefined) yield kept;
}

/** One that is compressed and one that is not are different archives of the same files. */
function beginHash({ isCompressed }: PackedArchive): ReturnType<typeof createHash> {
  return createHash("sha256").update(`roost files ${formatVersion}${isCompressed ? "" : " plain"}\n`);
}

function addTo(hash: ReturnType<typeof createHash>, entry: ContextEntry, content: string): void {
  const kind = entry.kind === "inline" ? "file" : entry.kind;
  const size = entry.kind === "file" ? entry.size : entry.kind === "inline" ? Buffer.byteLength(entry.content) : 0;
  hash.update(`${JSON.stringify([entry.path, kind, entry.mode, size, entry.kind === "link" ? entry.target : content])}\n`);
}

async function addEntry(tar: Pack, entry: ContextEntry, options: ReadingOptions): Promise<string> {
  const common: EntryHeader = { name: entry.path, mode: entry.mode, mtime: archiveTime, uid: 0, gid: 0, uname: "", gname: "" };
  const content = createHash("sha256");
  if (entry.kind === "folder") await add(tar, { ...common, name: `${entry.path}/`, type: "directory" });
  else if (entry.kind === "link") await add(tar, { ...common, type: "symlink", linkname: entry.target });
  else if (entry.kind === "inline") {
    const bytes = Buffer.from(entry.content);
    content.update(bytes);
    await add(tar, { ...common, type: "file", size: bytes.length }, bytes);
  } else if (entry.size === 0) await add(tar, { ...common, type: "file", size: 0 });
  else {
    const sink = tar.entry({ ...common, type: "file", size: entry.size });
    const watch = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        content.update(chunk);
        done(null, chunk);
      },
    });
    await pipeline(readFile(entry, options), watch, sink, { signal: options.signal });
  }
  return content.digest("hex");
}

async function add(tar: Pack, header: EntryHeader, content?: Buffer): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    tar.entry(header, content ?? Buffer.alloc(0), (error) => (error instanceof Error ? reject(error) : resolve()));
  });
}

/** A file's bytes, as many as it had when it was found. */
async function* readFile(
  { file, size }: { readonly file: string; readonly size: number },
  { signal, onBytes }: ReadingOptions,
): AsyncGenerator<Buffer, void, void> {
  let bytes = 0;
  // a link that has taken its place would lead elsewhere
  const handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW);
  const stream = handle.createReadStream({ highWaterMark: readBytes, ...(signal === undefined ? {} : { signal }) });
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > size) throw changed(file);
    onBytes?.(chunk.length);
    yield chunk;
  }
  if (bytes < size) throw changed(file);
}

function changed(what: string): RoostError {
  return new RoostError("context_invalid", `${what} changed while being read; build again when nothing writes there`);
}
