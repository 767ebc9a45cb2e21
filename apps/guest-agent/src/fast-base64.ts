/**
 * `Uint8Array.prototype.toBase64` and `setFromBase64` of the ECMAScript standard, where the engine lacks them, on top of
 * Buffer's native code. protobuf-es uses them when they exist; otherwise it encodes byte by byte in JavaScript, which under
 * emulation and without a JIT turns 20 MB of output over the JSON codec into a minute. Imported first: it looks once, at load.
 */
interface Base64Prototype {
  toBase64?: (this: Uint8Array, options?: { readonly alphabet?: "base64" | "base64url"; readonly omitPadding?: boolean }) => string;
  setFromBase64?: (this: Uint8Array, text: string) => { readonly read: number; readonly written: number };
}

const prototype = Uint8Array.prototype as Base64Prototype;

function define(name: keyof Base64Prototype, value: unknown): void {
  if (prototype[name] === undefined) Object.defineProperty(prototype, name, { value, configurable: true, writable: true });
}

define(
  "toBase64",
  function toBase64(this: Uint8Array, options: { readonly alphabet?: string; readonly omitPadding?: boolean } = {}): string {
    const text = Buffer.from(this.buffer, this.byteOffset, this.byteLength).toString(
      options.alphabet === "base64url" ? "base64url" : "base64",
    );
    if (options.alphabet === "base64url" || options.omitPadding !== true) return text;
    return text.replace(/=+$/, "");
  },
);

define("setFromBase64", function setFromBase64(this: Uint8Array, text: string) {
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  const written = Buffer.from(this.buffer, this.byteOffset, this.byteLength).write(text, "base64");
  // Buffer skips what is no base64. The standard refuses it, and so does whoever called: by a slower way of their own.
  if (text.length % 4 !== 0 || written !== (text.length / 4) * 3 - padding) throw new SyntaxError("not valid base64");
  return { read: text.length, written };
});
