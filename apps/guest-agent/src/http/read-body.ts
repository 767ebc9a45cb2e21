import type { IncomingMessage } from "node:http";

/**
 * The body of a request, as long as it is at most `bytesMax` long. By events: the stream's iterator does the same with many
 * times the code, which after a restore is all cold.
 */
export async function readBody(
  request: IncomingMessage,
  bytesMax: number,
  errors: { readonly tooLarge: () => Error; readonly cut: () => Error },
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    let isWhole = false;
    request.on("data", (chunk: Buffer) => {
      length += chunk.length;
      if (length <= bytesMax) chunks.push(chunk);
      else reject(errors.tooLarge()); // the rest is read and dropped, so that the answer arrives
    });
    request.on("end", () => {
      isWhole = true;
      resolve(chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks));
    });
    request.on("close", () => {
      if (!isWhole) reject(errors.cut()); // an error costs a stack: none for each request that went well
    });
  });
}
