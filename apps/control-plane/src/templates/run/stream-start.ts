import { Readable } from "node:stream";

/** The first bytes of a stream, and all of it again. */
export async function startOf(source: Readable, bytes: number): Promise<{ readonly start: Buffer; readonly all: Readable }> {
  const chunks: Buffer[] = [];
  let length = 0;
  const iterator = source[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  while (length < bytes) {
    const next = await iterator.next();
    if (next.done === true) break;
    chunks.push(next.value);
    length += next.value.length;
  }
  async function* again() {
    yield* chunks;
    for (;;) {
      const next = await iterator.next();
      if (next.done === true) return;
      yield next.value;
    }
  }
  const all = Readable.from(again(), { objectMode: false });
  all.once("close", () => source.destroy()); // also when nobody read of it
  return { start: Buffer.concat(chunks).subarray(0, bytes), all };
}
