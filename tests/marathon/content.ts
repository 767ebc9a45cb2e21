import { createHash } from "node:crypto";
import { crc32 as zlibCrc32 } from "node:zlib";

/** Prime, so that content differs from page to page. */
const unitBytes = 1021;

/** The same bytes as `content` of `guest-program.py`. */
export function content(seed: number, length: number): Buffer {
  const unit = createHash("shake128", { outputLength: unitBytes }).update(String(seed)).digest();
  return Buffer.alloc(length, unit);
}

/** `old` with `piece` at `offset`; what lies between its end and there is zero. A new buffer. */
export function overwritten(old: Buffer, offset: number, piece: Uint8Array): Buffer {
  const value = Buffer.alloc(Math.max(old.length, offset + piece.length));
  value.set(old);
  value.set(piece, offset);
  return value;
}

export function crc32(bytes: Uint8Array): number {
  return zlibCrc32(bytes);
}

/** Short hash of anything JSON can say. */
export function digest(value: unknown): string {
  return digestOfText(JSON.stringify(value));
}

export function digestOfText(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}
