import { createHash } from "node:crypto";

/**
 * JSON files that notice any change of themselves. The first member is `checksum`: the SHA-256 over the whole file in which the 64 digits
 * of the checksum itself are zeros. It stands at a fixed place, so a reader needs no canonical form of JSON: it hashes the bytes it has read.
 */
const prefix = '{\n  "checksum": "sha256:';
const zeros = "0".repeat(64);

/** `value` as the text of a sealed file. */
export function seal(value: Readonly<Record<string, unknown>>): string {
  const text = `${JSON.stringify({ checksum: `sha256:${zeros}`, ...value }, undefined, 2)}\n`;
  return prefix + digestOf(text) + text.slice(prefix.length + zeros.length);
}

/** What `seal` was given, `checksum` included. Throws an `Error` that says what is wrong when the bytes are not as they were written. */
export function unseal(bytes: Uint8Array): unknown {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1"); // one character a byte: what is hashed is what was read
  if (!text.startsWith(prefix)) throw new Error("does not begin with its checksum");
  const stated = text.slice(prefix.length, prefix.length + zeros.length);
  const actual = createHash("sha256")
    .update(prefix + zeros + text.slice(prefix.length + zeros.length), "latin1")
    .digest("hex");
  if (stated !== actual) throw new Error(`says its checksum is ${stated}, but it is ${actual}`);
  return JSON.parse(Buffer.from(text, "latin1").toString("utf8"));
}

function digestOf(text: string): string {
  return createHash("sha256").update(text, "utf8").digest("hex");
}
