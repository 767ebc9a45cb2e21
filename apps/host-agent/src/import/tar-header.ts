import { unusable } from "./unusable.ts";

/** A block of a tar archive; everything in it begins at a multiple of this, in `bytes`. */
export const blockBytes = 512;

/** The fields of one 512-byte header. Names are bytes as latin1 text: no encoding is assumed, and none is lost. */
export interface TarHeader {
  readonly name: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly timeSec: number;
  readonly type: string;
  readonly link: string;
  readonly major: number;
  readonly minor: number;
}

/** Undefined for the zeros at an archive's end. Throws `image_unusable` for what is no header. */
export function readHeader(block: Buffer): TarHeader | undefined {
  if (block.every((byte) => byte === 0)) return undefined;
  checkSum(block);
  const magic = block.toString("latin1", 257, 265);
  const prefix = magic.startsWith("ustar\0") ? text(block, 345, 155) : ""; // GNU's has times there
  const name = text(block, 0, 100);
  const isUstar = magic.startsWith("ustar");
  return {
    name: prefix === "" ? name : `${prefix}/${name}`,
    mode: number(block, 100, 8) & 0o7777,
    uid: number(block, 108, 8),
    gid: number(block, 116, 8),
    size: number(block, 124, 12),
    timeSec: number(block, 136, 12),
    type: String.fromCharCode(block[156] ?? 0),
    link: text(block, 157, 100),
    major: isUstar ? number(block, 329, 8) : 0,
    minor: isUstar ? number(block, 337, 8) : 0,
  };
}

function checkSum(block: Buffer): void {
  let unsigned = 8 * 0x20; // its own field counts as spaces
  let signed = unsigned;
  for (let index = 0; index < blockBytes; index += 1) {
    if (index >= 148 && index < 156) continue;
    unsigned += block[index] ?? 0;
    signed += block.readInt8(index); // old tars on old machines counted so
  }
  const said = number(block, 148, 8);
  if (said !== unsigned && said !== signed) throw damagedTar("the checksum of a header is wrong");
}

/** A number field: octal digits, or GNU's binary form. */
export function number(block: Buffer, offset: number, length: number): number {
  const first = block[offset] ?? 0;
  if ((first & 0x80) !== 0) {
    let value = BigInt.asIntN(7, BigInt(first & 0x7f));
    for (let index = offset + 1; index < offset + length; index += 1) value = (value << 8n) | BigInt(block[index] ?? 0);
    return safe(value);
  }
  const digits = block
    .toString("latin1", offset, offset + length)
    .replaceAll("\0", " ")
    .trim();
  if (digits === "") return 0;
  if (!/^[0-7]+$/.test(digits)) throw damagedTar("a number in a header is none");
  return Number.parseInt(digits, 8);
}

function safe(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER) || value < BigInt(Number.MIN_SAFE_INTEGER))
    throw damagedTar("a number in a header is too large");
  return Number(value);
}

function text(block: Buffer, offset: number, length: number): string {
  const end = block.indexOf(0, offset);
  return block.toString("latin1", offset, end === -1 || end > offset + length ? offset + length : end);
}

/** Records of a pax header, in their order: some of GNU's come more than once. Values are bytes. */
export function readPaxRecords(data: Buffer): [string, Buffer][] {
  const records: [string, Buffer][] = [];
  for (let at = 0; at < data.length;) {
    const space = data.indexOf(0x20, at);
    const digits = space === -1 ? "" : data.toString("latin1", at, space);
    const length = /^[1-9][0-9]{0,8}$/.test(digits) ? Number(digits) : 0;
    const end = at + length;
    const equals = data.indexOf(0x3d, space);
    if (length === 0 || end > data.length || equals === -1 || equals >= end || data[end - 1] !== 0x0a) {
      if (data.subarray(at).every((byte) => byte === 0)) break; // some writers pad it
      throw damagedTar("an extended header cannot be read");
    }
    records.push([data.toString("latin1", space + 1, equals), data.subarray(equals + 1, end - 1)]);
    at = end;
  }
  return records;
}

export function damagedTar(what: string) {
  return unusable(`a layer of the image is damaged (${what}); make or push the image again`);
}
