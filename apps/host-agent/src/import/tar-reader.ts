import type { FileHandle } from "node:fs/promises";

import { MiB } from "@roost/kit";

import { headerBytesMax, sparsePiecesMax } from "./limits.ts";
import { blockBytes, damagedTar, number, readHeader, readPaxRecords, type TarHeader } from "./tar-header.ts";

/**
 * Reads tar archives that lie in a file: POSIX (ustar, pax), GNU's and old ones, with sparse files in all of GNU's forms.
 *
 * It is our own because what npm has decodes pax records as UTF-8, which destroys the binary values of capabilities, and knows no sparse files. It reads headers only; where the
 * bytes of files are is told, so that they are copied once, and only those of files that are still there in the last layer.
 */
export interface TarSource {
  readonly file: FileHandle;
  /** Where the archive begins and how long it is, in `bytes` */
  readonly start: number;
  readonly length: number;
}

/** A piece of a file's content: `length` bytes at `position` of the content are at `offset` of the archive's file. What no piece covers is zeros. */
export interface Piece {
  readonly position: number;
  readonly offset: number;
  readonly length: number;
}

export type TarEntryKind = "file" | "link" | "symlink" | "character" | "block" | "folder" | "fifo";

export interface TarEntry {
  readonly kind: TarEntryKind;
  /** As written in the archive, bytes as latin1 */
  readonly path: string;
  /** Of a link or symbolic link, bytes as latin1 */
  readonly target: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly timeSec: number;
  readonly major: number;
  readonly minor: number;
  /** Of a file's content in `bytes` */
  readonly size: number;
  readonly pieces: readonly Piece[];
  readonly attributes: ReadonlyMap<string, Buffer>;
}

const kinds: Readonly<Record<string, TarEntryKind>> = {
  "0": "file",
  "\0": "file",
  "7": "file",
  S: "file",
  "1": "link",
  "2": "symlink",
  "3": "character",
  "4": "block",
  "5": "folder",
  "6": "fifo",
};
/** An archive's label */
const volumeType = "V";

/** Yields an archive's entries in its order. Throws `image_unusable` for what cannot be read. */
export async function* readTar(source: TarSource, signal?: AbortSignal): AsyncGenerator<TarEntry> {
  const reader = new Reader(source);
  let global = new Map<string, Buffer>();
  let extended: [string, Buffer][] = [];
  let longName: string | undefined;
  let longLink: string | undefined;
  for (;;) {
    signal?.throwIfAborted();
    const block = await reader.take(blockBytes, "end");
    const header = block === undefined ? undefined : readHeader(block);
    if (header === undefined) return;
    if (header.type === "x" || header.type === "g" || header.type === "L" || header.type === "K") {
      if (header.size > headerBytesMax) throw damagedTar("an extended header is too large");
      const data = await reader.takeData(header.size);
      if (header.type === "L") longName = untilNul(data);
      else if (header.type === "K") longLink = untilNul(data);
      else if (header.type === "x") extended = readPaxRecords(data);
      else global = new Map([...global, ...readPaxRecords(data)]);
      continue;
    }
    const records = new Map([...global, ...extended]);
    const entry = await readEntry(reader, { header, records, extended, longName, longLink });
    extended = [];
    longName = longLink = undefined;
    if (entry !== undefined) yield entry;
  }
}

interface Raw {
  readonly header: TarHeader;
  readonly records: ReadonlyMap<string, Buffer>;
  /** The entry's own, with those that come more than once */
  readonly extended: readonly [string, Buffer][];
  readonly longName: string | undefined;
  readonly longLink: string | undefined;
}

async function readEntry(reader: Reader, raw: Raw): Promise<TarEntry | undefined> {
  const { header, records } = raw;
  const textOf = (key: string) => records.get(key)?.toString("latin1");
  const numberOf = (key: string, otherwise: number) => decimal(textOf(key), otherwise);
  const size = numberOf("size", header.size);
  if (size < 0) throw damagedTar("the size of a file is negative");
  const path = textOf("GNU.sparse.name") ?? textOf("path") ?? raw.longName ?? header.name;
  let kind = kinds[header.type];
  if (kind === "file" && path.endsWith("/")) kind = "folder"; // as tars before POSIX wrote them
  if (kind === undefined) {
    reader.skip(size);
    if (header.type === volumeType) return undefined;
    throw damagedTar(`an entry has the unknown type ${JSON.stringify(header.type)}`);
  }
  const content = kind === "file" ? await readContent(reader, raw, size) : { size: 0, pieces: [] };
  const attributes = new Map<string, Buffer>();
  for (const [key, value] of records) {
    if (key.startsWith(attributePrefix)) attributes.set(key.slice(attributePrefix.length), Buffer.from(value));
  }
  return {
    kind,
    path,
    target: textOf("linkpath") ?? raw.longLink ?? header.link,
    mode: header.mode,
    uid: numberOf("uid", header.uid),
    gid: numberOf("gid", header.gid),
    timeSec: numberOf("mtime", header.timeSec),
    major: header.major,
    minor: header.minor,
    attributes,
    ...content,
  };
}

const attributePrefix = "SCHILY.xattr.";

/** Where a file's bytes are; afterwards the reader is at the next header. */
async function readContent(reader: Reader, raw: Raw, size: number): Promise<{ size: number; pieces: Piece[] }> {
  const { header, records, extended } = raw;
  const textOf = (key: string) => records.get(key)?.toString("latin1");
  if (header.type === "S") {
    const map: number[] = [];
    const { isExtended, realSize } = await reader.oldSparse(map);
    for (let more = isExtended; more;) more = await reader.oldSparseMore(map);
    return reader.sparse(map, size, realSize);
  }
  if (textOf("GNU.sparse.major") === "1" && textOf("GNU.sparse.minor") === "0") {
    const realSize = decimal(textOf("GNU.sparse.realsize"), -1);
    const before = reader.position;
    const map = await reader.sparseMap();
    return reader.sparse(map, size - (reader.position - before), realSize);
  }
  const realSize = decimal(textOf("GNU.sparse.size"), -1);
  if (realSize >= 0) {
    const list = textOf("GNU.sparse.map")?.split(",");
    const pairs =
      list ??
      extended.filter(([key]) => key === "GNU.sparse.offset" || key === "GNU.sparse.numbytes").map(([, value]) => value.toString("latin1"));
    return reader.sparse(
      pairs.filter((each) => each !== "").map((each) => decimal(each, -1)),
      size,
      realSize,
    );
  }
  return reader.sparse([0, size], size, size);
}

/** A whole number, of which pax allows a fraction; throws for anything else. */
function decimal(text: string | undefined, otherwise: number): number {
  if (text === undefined || text === "") return otherwise;
  const value = /^-?[0-9]{1,20}(\.[0-9]*)?$/.test(text) ? Math.floor(Number(text)) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw damagedTar("a number in an extended header is none");
  return value;
}

function untilNul(data: Buffer): string {
  const end = data.indexOf(0);
  return data.toString("latin1", 0, end === -1 ? data.length : end);
}

/** What is read ahead in `bytes`: headers lie far apart where files are large, and close where they are small. */
const readAheadBytes = MiB / 4;

/** Takes bytes off an archive, one after another. */
class Reader {
  readonly #source: TarSource;
  readonly #buffer = Buffer.alloc(readAheadBytes);
  #bufferStart = 0;
  #bufferEnd = 0;
  /** In the archive, in `bytes` */
  position = 0;
  #lastHeader: Buffer = Buffer.alloc(0);

  constructor(source: TarSource) {
    this.#source = source;
  }

  /** The next bytes, which are valid until the next call; undefined at the end, if that is allowed here. */
  async take(length: number, atEnd?: "end"): Promise<Buffer | undefined> {
    if (this.position + length > this.#source.length) {
      if (atEnd === "end") return undefined;
      throw damagedTar("it ends too early");
    }
    if (this.position < this.#bufferStart || this.position + length > this.#bufferEnd) {
      const wanted = Math.min(this.#buffer.length, this.#source.length - this.position);
      const { bytesRead } = await this.#source.file.read(this.#buffer, 0, wanted, this.#source.start + this.position);
      this.#bufferStart = this.position;
      this.#bufferEnd = this.position + bytesRead;
      if (bytesRead < length) throw damagedTar("it ends too early");
    }
    const offset = this.position - this.#bufferStart;
    this.position += length;
    const taken = this.#buffer.subarray(offset, offset + length);
    if (length === blockBytes) this.#lastHeader = taken;
    return taken;
  }

  /** The data of a header, at most `headerBytesMax`, as a copy. */
  async takeData(length: number): Promise<Buffer> {
    const data = Buffer.alloc(length);
    for (let done = 0; done < length;) {
      const part = await this.take(Math.min(length - done, readAheadBytes));
      if (part === undefined) break;
      part.copy(data, done);
      done += part.length;
    }
    this.#pad(length);
    return data;
  }

  /** Over the data of an entry. */
  skip(length: number): void {
    this.position += length;
    if (this.position > this.#source.length) throw damagedTar("it ends too early");
    this.#pad(length);
  }

  /** The map in GNU's own sparse header. */
  async oldSparse(map: number[]): Promise<{ isExtended: boolean; realSize: number }> {
    const header = this.#lastHeader;
    addPairs(map, header, 386, 4);
    return { isExtended: header[482] === 1, realSize: number(header, 483, 12) };
  }

  /** The next block of that map; says whether there is another. */
  async oldSparseMore(map: number[]): Promise<boolean> {
    const block = await this.take(blockBytes);
    if (block === undefined) return false;
    addPairs(map, block, 0, 21);
    return block[504] === 1;
  }

  /** The map before the data of a sparse file in GNU's newest form: decimal numbers, one a line, the first one how many pairs there are. */
  async sparseMap(): Promise<number[]> {
    const numbers: number[] = [];
    let wanted = 1;
    let rest = "";
    while (numbers.length < wanted) {
      const block = await this.take(blockBytes);
      const lines = (rest + (block?.toString("latin1") ?? "")).split("\n");
      rest = lines.pop() ?? "";
      if (rest.length > blockBytes) throw damagedTar("the map of a sparse file cannot be read");
      for (const line of lines) {
        if (numbers.length === wanted) break;
        numbers.push(decimal(line === "" ? "none" : line, -1));
        if (numbers.length === 1) wanted = 1 + 2 * Math.min(Math.max(0, numbers[0] ?? 0), sparsePiecesMax + 1);
      }
    }
    return numbers.slice(1);
  }

  /** Pieces from a map of pairs (position, length) whose bytes follow here, `stored` of them. */
  sparse(map: readonly number[], stored: number, size: number): { size: number; pieces: Piece[] } {
    if (map.length % 2 !== 0 || map.length > 2 * sparsePiecesMax) throw damagedTar("the map of a sparse file cannot be read");
    const pieces: Piece[] = [];
    let end = 0;
    let used = 0;
    for (let index = 0; index < map.length; index += 2) {
      const position = map[index] ?? -1;
      const length = map[index + 1] ?? -1;
      if (position < end || length < 0 || position + length > size) throw damagedTar("the map of a sparse file cannot be read");
      if (length > 0) pieces.push({ position, length, offset: this.#source.start + this.position + used });
      end = position + length;
      used += length;
    }
    if (used !== stored) throw damagedTar("a sparse file has another size than its map says");
    this.skip(stored);
    return { size, pieces };
  }

  #pad(length: number): void {
    this.position += (blockBytes - (length % blockBytes)) % blockBytes;
  }
}

function addPairs(map: number[], block: Buffer, offset: number, count: number): void {
  for (let index = 0; index < count; index += 1) {
    const at = offset + 24 * index;
    if ((block[at] ?? 0) === 0) return; // none from here on
    if (map.length > 2 * sparsePiecesMax) throw damagedTar("the map of a sparse file cannot be read");
    map.push(number(block, at, 12), number(block, at + 12, 12));
  }
}
