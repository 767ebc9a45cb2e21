import type { FileHandle } from "node:fs/promises";
import { Readable } from "node:stream";

import { KiB } from "@roost/kit";

import type { ByteRange } from "./byte-range.ts";

/*
 * Streams over a file handle that somebody else owns. Not Node's own: those count as users of the handle until they are
 * closed themselves, and with a bare descriptor a late write may hit whatever file got its number next. Here each call
 * goes through the handle, whose close waits for the calls under way.
 */

/** Bytes that are collected before they are written in one call. */
const writeBytes = 256 * KiB;
/** Bytes read at once, and ahead of a slow client. */
const readChunkBytes = 256 * KiB;

/** Writes all of `content` where the handle stands, in few large calls; a sender that is faster than the disk waits. */
export async function writeTo(handle: FileHandle, content: AsyncIterable<Buffer> | Iterable<Buffer>): Promise<void> {
  let chunks: Buffer[] = [];
  let bytes = 0;
  const flush = async () => {
    if (bytes > 0) await handle.writeFile(chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks, bytes));
    chunks = [];
    bytes = 0;
  };
  for await (const chunk of content) {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes >= writeBytes) await flush();
  }
  await flush();
}

/** The bytes of a range, or fewer where the file ends before. Reads no faster than they are taken. */
export function readFrom(handle: FileHandle, range: ByteRange, onRead: (bytes: number) => void = () => undefined): Readable {
  async function* chunks(): AsyncGenerator<Buffer> {
    for (let position = range.start; position <= range.end;) {
      const wanted = Math.min(readChunkBytes, range.end - position + 1);
      const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(wanted), 0, wanted, position);
      if (bytesRead === 0) return;
      position += bytesRead;
      onRead(bytesRead);
      yield buffer.subarray(0, bytesRead);
    }
  }
  return Readable.from(chunks(), { objectMode: false, highWaterMark: readChunkBytes });
}
