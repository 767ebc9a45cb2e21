import type { Inode } from "./image-tree.ts";
import { blockBytes } from "./tar-header.ts";

/**
 * Writes tar entries in the form that mke2fs (by way of libarchive) takes without a loss: names of any bytes and lengths as GNU's long names, which are not converted between
 * encodings as pax's are (libarchive 3.6 loses targets of links there, and mke2fs then ends with a crash); large numbers in GNU's binary form; capabilities and the times that tar
 * has no field for as pax records.
 */
export function entryHeader(path: string, inode: Inode, how: { readonly linkTo?: string; readonly timeSec: number }): Buffer {
  const isLink = how.linkTo !== undefined;
  const link = how.linkTo ?? inode.target;
  const parts: Buffer[] = [];
  if (Buffer.byteLength(link, "latin1") > shortMax) parts.push(longText("K", link));
  if (Buffer.byteLength(path, "latin1") > shortMax) parts.push(longText("L", path));
  // libarchive takes what is missing for 1970
  const records = [paxRecord("atime", Buffer.from(String(how.timeSec))), paxRecord("ctime", Buffer.from(String(how.timeSec)))];
  const capability = isLink ? undefined : inode.attributes.get(capabilityAttribute);
  if (capability !== undefined) records.push(paxRecord(`SCHILY.xattr.${capabilityAttribute}`, capability));
  const pax = Buffer.concat(records);
  parts.push(header("././@PaxHeader", "x", pax.length), padded(pax));
  const size = isLink ? 0 : inode.size;
  // A link's entry has the owner and mode of its target, because mke2fs gives them to it once more
  const block = header(path, isLink ? "1" : types[inode.kind], size, { ...inode, link });
  return Buffer.concat([...parts, block]);
}

export const capabilityAttribute = "security.capability";

/** Of a name that fits its field in `bytes` */
const shortMax = 99;

const types: Readonly<Record<Inode["kind"], string>> = { file: "0", symlink: "2", character: "3", block: "4", folder: "5", fifo: "6" };

/** Zeros up to the next block after `length` bytes. */
export function padding(length: number): Buffer {
  return Buffer.alloc((blockBytes - (length % blockBytes)) % blockBytes);
}

export const archiveEnd: Buffer = Buffer.alloc(2 * blockBytes);

interface Fields {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly timeSec: number;
  readonly link: string;
  readonly major: number;
  readonly minor: number;
}

const noFields: Fields = { mode: 0o644, uid: 0, gid: 0, timeSec: 0, link: "", major: 0, minor: 0 };

function header(name: string, type: string, size: number, fields: Fields = noFields): Buffer {
  const block = Buffer.alloc(blockBytes);
  block.write(name.slice(0, shortMax), 0, "latin1");
  putNumber(block, 100, 8, fields.mode);
  putNumber(block, 108, 8, fields.uid);
  putNumber(block, 116, 8, fields.gid);
  putNumber(block, 124, 12, size);
  putNumber(block, 136, 12, fields.timeSec);
  block.write(type, 156, "latin1");
  block.write(fields.link.slice(0, shortMax), 157, "latin1");
  block.write("ustar  \0", 257, "latin1");
  putNumber(block, 329, 8, fields.major);
  putNumber(block, 337, 8, fields.minor);
  block.fill(0x20, 148, 156);
  let sum = 0;
  for (const byte of block) sum += byte;
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return block;
}

/** Octal where it fits, else GNU's binary form: the highest bit set, then the number as two's complement. */
function putNumber(block: Buffer, offset: number, length: number, value: number): void {
  const digits = value.toString(8);
  if (value >= 0 && digits.length < length) {
    block.write(`${digits.padStart(length - 1, "0")}\0`, offset, "latin1");
    return;
  }
  const bytes = BigInt.asUintN(length * 8, BigInt(value));
  for (let index = 0; index < length; index += 1) block[offset + index] = Number((bytes >> BigInt(8 * (length - 1 - index))) & 0xffn);
  block[offset] = (block[offset] ?? 0) | 0x80;
}

function longText(type: string, text: string): Buffer {
  const data = Buffer.from(`${text}\0`, "latin1");
  return Buffer.concat([header("././@LongLink", type, data.length), padded(data)]);
}

function padded(data: Buffer): Buffer {
  return Buffer.concat([data, padding(data.length)]);
}

/** `<length> <key>=<value>\n`, whose length counts its own digits. */
function paxRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from("\n")]);
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}
