import type { FileHandle } from "node:fs/promises";
import { Readable, Writable } from "node:stream";

import { KiB, MiB } from "@roost/kit";

import type { ByteRange } from "./byte-range.ts";

/*
 * Streams over a file handle that somebody else owns. Not Node's own: those count as users of the handle until they are
 * closed themselves, and with a bare descriptor a late write may hit whatever file got its number next. Here each call
 * goes through the handle, whose close waits for the calls under way.
 */

/** Bytes that may wait for the disk before the sender is held back; they are then written in one call. */
const writeBufferBytes = 1 * MiB;
/** Bytes read at once, and ahead of a slow client. */
const readChunkBytes = 256 * KiB;

/** Writes where the handle stands. Ending it leaves the handle open. */
export function writeTo(handle: FileHandle): Writable {
  const write = (bytes: Buffer, done: (error?: Error | null) => void) => {
    handle.writeFile(bytes).then(() => done(), done);
  };
  return new Writable({
    highWaterMark: writeBufferBytes,
    write: (chunk: Buffer, _encoding, done) => write(chunk, done),
    writev: (chunks: readonly { readonly chunk: Buffer }[], done) => write(Buffer.concat(chunks.map(({ chunk }) => chunk)), done),
  });
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
