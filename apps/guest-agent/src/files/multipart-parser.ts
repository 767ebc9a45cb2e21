import { HttpError } from "../http/http-error.ts";
import { parseDisposition, type PartDisposition } from "./part-header.ts";

/** Head of one part in `bytes`; more is no head of a form. */
const headBytesMax = 8 * 1024;
/** Blanks that may follow a boundary (RFC 2046, 5.1.1), in `bytes`. */
const paddingBytesMax = 256;

const dash = 45;
const carriageReturn = 13;
const lineFeed = 10;

export interface Part extends PartDisposition {
  /** Ends with the part. What is not read is skipped when the next part is asked for. */
  readonly content: AsyncIterable<Buffer>;
}

/**
 * Reads a multipart body (RFC 7578) part by part, asking for bytes only when somebody asks for content: there is one
 * reader, one place in the body, and no event that could come at a wrong time. What it holds is one chunk.
 *
 * Not busboy: the fuzzer found that it goes on after a broken part and after the closing boundary, and then waits for
 * ever for the end of parts it made there.
 */
export class MultipartParser {
  readonly #source: AsyncIterator<Buffer>;
  readonly #delimiter: Buffer;
  /** not yet consumed; starts with a line break, so that a boundary at the very start is like any other */
  #bytes: Buffer = Buffer.from("\r\n");
  /** `content`: inside a part, or before the first; `head`: behind a boundary; `end`: behind the closing one */
  #state: "content" | "head" | "end" = "content";

  constructor(source: AsyncIterable<Buffer>, boundary: string) {
    this.#source = source[Symbol.asyncIterator]();
    this.#delimiter = Buffer.from(`\r\n--${boundary}`, "latin1");
  }

  /** The next part, or undefined behind the last. A body that ends before its closing boundary is an error. */
  async next(): Promise<Part | undefined> {
    while ((await this.#chunk()) !== undefined); // what is left of the part before
    if (this.#state === "end") {
      await this.#skipRest();
      return undefined;
    }
    const disposition = parseDisposition(await this.#head());
    this.#state = "content";
    return { ...disposition, content: { [Symbol.asyncIterator]: () => ({ next: async () => this.#result() }) } };
  }

  async #result(): Promise<IteratorResult<Buffer>> {
    const chunk = await this.#chunk();
    return chunk === undefined ? { done: true, value: undefined } : { done: false, value: chunk };
  }

  /** The next bytes of the present part, or undefined at its end. */
  async #chunk(): Promise<Buffer | undefined> {
    while (this.#state === "content") {
      const found = this.#bytes.indexOf(this.#delimiter);
      if (found > 0) return this.#take(found);
      if (found === 0) {
        if (await this.#passBoundary()) return undefined;
        return this.#take(this.#delimiter.length); // looks like the boundary and goes on otherwise: content
      }
      const certain = this.#bytes.length - (this.#delimiter.length - 1); // the rest may be the start of a boundary
      if (certain > 0) return this.#take(certain);
      await this.#fill();
    }
    return undefined;
  }

  /** Whether the delimiter at the start is a boundary; then it is consumed, but for the line break behind it. */
  async #passBoundary(): Promise<boolean> {
    for (let position = this.#delimiter.length; position < this.#delimiter.length + paddingBytesMax; position += 1) {
      while (this.#bytes.length < position + 2) await this.#fill();
      const [first, second] = [this.#bytes[position], this.#bytes[position + 1]];
      const isEnd = position === this.#delimiter.length && first === dash && second === dash;
      if (isEnd || (first === carriageReturn && second === lineFeed)) {
        this.#take(isEnd ? position + 2 : position);
        this.#state = isEnd ? "end" : "head";
        return true;
      }
      if (first !== 32 && first !== 9) return false;
    }
    return false;
  }

  async #head(): Promise<string> {
    for (;;) {
      const end = this.#bytes.indexOf("\r\n\r\n");
      if (end > headBytesMax || (end < 0 && this.#bytes.length > headBytesMax)) throw broken("the head of a part is too long");
      if (end >= 0) {
        const head = this.#take(end).toString("utf8");
        this.#take(4);
        return head;
      }
      await this.#fill();
    }
  }

  /** To its end, as what is wrong with it (a checksum) may come last. */
  async #skipRest(): Promise<void> {
    this.#bytes = Buffer.alloc(0);
    while ((await this.#source.next()).done !== true);
  }

  async #fill(): Promise<void> {
    const { done, value } = await this.#source.next();
    if (done === true) throw broken("it ends before its closing boundary");
    this.#bytes = this.#bytes.length === 0 ? value : Buffer.concat([this.#bytes, value]);
  }

  #take(length: number): Buffer {
    const taken = this.#bytes.subarray(0, length);
    this.#bytes = this.#bytes.subarray(length);
    return taken;
  }
}

function broken(why: string): HttpError {
  return new HttpError(400, `error reading form: ${why}`);
}
