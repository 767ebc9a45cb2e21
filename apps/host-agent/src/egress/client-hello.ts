import { incomplete, nameReading, none, type HeadReading } from "./head-reading.ts";

/** RFC 8446, 5.1 and 4: record and handshake type, and the extension with the name */
const recordTypeHandshake = 22;
const handshakeTypeClientHello = 1;
const extensionServerName = 0;
const nameTypeHostName = 0;
const recordBytesMax = 2 ** 14;

/**
 * The server name (SNI) that a TLS connection asks for, from its first bytes. The ClientHello may be spread over several records. The guest wrote this:
 * every length is checked, and nothing but the name is believed.
 */
export function readServerName(bytes: Buffer): HeadReading {
  const handshake = joinRecords(bytes);
  if (handshake === undefined) return none("it does not begin as TLS does");
  if (handshake.length < 4) return incomplete;
  if (handshake[0] !== handshakeTypeClientHello) return none("it does not begin as TLS does");
  const length = handshake.readUIntBE(1, 3);
  if (length > recordBytesMax) return none("its TLS greeting is too long");
  if (handshake.length < 4 + length) return incomplete;
  return findServerName(new Cursor(handshake.subarray(4, 4 + length)));
}

/** The content of the handshake records that are there, the last one perhaps cut; undefined when there is something else. */
function joinRecords(bytes: Buffer): Buffer | undefined {
  const parts: Buffer[] = [];
  for (let offset = 0; offset < bytes.length;) {
    if (bytes[offset] !== recordTypeHandshake || (bytes[offset + 1] ?? 3) !== 3) return undefined;
    if (bytes.length < offset + 5) break;
    const length = bytes.readUInt16BE(offset + 3);
    if (length === 0 || length > recordBytesMax) return undefined;
    parts.push(bytes.subarray(offset + 5, offset + 5 + length));
    offset += 5 + length;
  }
  return Buffer.concat(parts);
}

function findServerName(hello: Cursor): HeadReading {
  const malformed = none("its TLS greeting is malformed");
  const isRead = hello.skip(2 + 32) && hello.skipVector(1) && hello.skipVector(2) && hello.skipVector(1); // version and random, session, ciphers, compression
  const extensions = isRead ? hello.vector(2) : undefined;
  if (extensions === undefined) return malformed;
  while (extensions.hasMore) {
    const type = extensions.number(2);
    const content = extensions.vector(2);
    if (type === undefined || content === undefined) return malformed;
    if (type !== extensionServerName) continue;
    const list = content.vector(2);
    if (list?.number(1) !== nameTypeHostName) return malformed;
    const name = list.vector(2);
    return name === undefined ? malformed : nameReading(name.rest());
  }
  return none("its TLS greeting names no server (SNI)");
}

/** Reads numbers and vectors of TLS; undefined, or false, when there is not enough left. */
class Cursor {
  #offset = 0;
  readonly #bytes: Buffer;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get hasMore(): boolean {
    return this.#offset < this.#bytes.length;
  }

  skip(count: number): boolean {
    if (this.#offset + count > this.#bytes.length) return false;
    this.#offset += count;
    return true;
  }

  number(size: 1 | 2): number | undefined {
    const at = this.#offset;
    return this.skip(size) ? this.#bytes.readUIntBE(at, size) : undefined;
  }

  /** What follows its length, which takes `size` bytes. */
  vector(size: 1 | 2): Cursor | undefined {
    const length = this.number(size);
    const at = this.#offset;
    return length !== undefined && this.skip(length) ? new Cursor(this.#bytes.subarray(at, at + length)) : undefined;
  }

  skipVector(size: 1 | 2): boolean {
    return this.vector(size) !== undefined;
  }

  rest(): string {
    return this.#bytes.toString("latin1", this.#offset);
  }
}
