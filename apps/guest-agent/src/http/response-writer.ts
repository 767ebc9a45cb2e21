import type { ServerResponse } from "node:http";

/** Bytes that are joined before they are written at the latest: more gains nothing and costs a copy. */
const joinedBytesMax = 64 * 1024;

/**
 * Writes the body of a response piece by piece. What comes in one turn of the event loop goes in one packet: under
 * emulation a packet costs more than what is in it. (Not by corking the response: Node 24 then mixes up the chunks.)
 */
export class ResponseWriter {
  readonly #response: ServerResponse;
  #pieces: Uint8Array[] = [];
  #pendingBytes = 0;
  #flush: NodeJS.Immediate | undefined;

  constructor(response: ServerResponse) {
    this.#response = response;
  }

  /** Resolves when the response takes more; to false when its client is gone. */
  async write(bytes: Uint8Array): Promise<boolean> {
    if (this.#response.destroyed) return false;
    this.#pieces.push(bytes);
    this.#pendingBytes += bytes.length;
    if (this.#pendingBytes < joinedBytesMax) this.#flush ??= setImmediate(() => this.#response.write(this.#take()));
    else if (!this.#response.write(this.#take())) await writable(this.#response);
    return !this.#response.destroyed;
  }

  /** Ends the response, with these last bytes. */
  end(bytes?: Uint8Array): void {
    if (bytes !== undefined) this.#pieces.push(bytes);
    const rest = this.#take();
    if (rest.length === 0) this.#response.end();
    else this.#response.end(rest);
  }

  #take(): Uint8Array {
    clearImmediate(this.#flush);
    this.#flush = undefined;
    const [only] = this.#pieces;
    const joined = this.#pieces.length === 1 && only !== undefined ? only : Buffer.concat(this.#pieces);
    this.#pieces = [];
    this.#pendingBytes = 0;
    return joined;
  }
}

/** Resolves when the response takes more, or never will. */
async function writable(response: ServerResponse): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = () => {
      response.off("drain", done);
      response.off("close", done);
      resolve();
    };
    response.on("drain", done);
    response.on("close", done);
  });
}
