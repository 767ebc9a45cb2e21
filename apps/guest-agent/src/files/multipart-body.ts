import type { IncomingHttpHeaders } from "node:http";
import type { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";

import { MiB } from "@roost/kit";
import busboy from "busboy";

import { errnoOf } from "../filesystem/file-errors.ts";
import { HttpError } from "../http/http-error.ts";

/** Files in one request; each holds a descriptor until all are complete. */
export const uploadedFilesMax = 1000;
/** A part `file` without a file name is a form field, which is kept in memory; in `bytes`. */
const fieldBytesMax = 1 * MiB;

export interface UploadedPart {
  /** as the sender wrote it, folders included; undefined for a part that is a plain form field */
  readonly filename: string | undefined;
  /** To be read by iterating */
  readonly content: AsyncIterable<Buffer> | Iterable<Buffer>;
}

/**
 * Hands the parts named `file` of a multipart body to `onFile`, one after the other, while they arrive; others are
 * skipped. Resolves when the body was read to its closing boundary and every file is done with: a body that ends early
 * is an error, never a short file.
 */
export async function readMultipart(
  body: readonly [Transform, ...Transform[]],
  headers: IncomingHttpHeaders,
  onFile: (part: UploadedPart) => Promise<void>,
): Promise<void> {
  const parser = createParser(headers);
  let work = Promise.resolve();
  const enqueue = (part: UploadedPart) => {
    work = work.then(async () => onFile(part));
    work.catch((error: unknown) => parser.destroy(error instanceof Error ? error : new Error(String(error))));
  };
  parser.on("file", (name, content, info) => {
    content.on("error", () => undefined); // whoever reads it gets the error; unread, the parser reports the same
    // Parts of a write in which an earlier part was broken still come, and nobody would ever end them.
    if (parser.destroyed) content.destroy();
    else if (name === "file") enqueue({ filename: info.filename, content });
    else content.resume();
  });
  parser.on("field", (name, value, info) => {
    if (name !== "file" || parser.destroyed) return;
    if (info.valueTruncated) parser.destroy(new HttpError(413, "the part 'file' has no file name and is too large for a field"));
    else enqueue({ filename: undefined, content: [Buffer.from(value, "latin1")] });
  });
  parser.on("filesLimit", () => parser.destroy(new HttpError(413, `at most ${uploadedFilesMax} files in one request`)));
  parser.on("partsLimit", () => parser.destroy(new HttpError(413, "too many parts in one request")));
  try {
    await pipeline([...body, parser]);
  } catch (error) {
    await work.catch(() => undefined); // the same error, or one that follows from it
    throw toFormError(error);
  }
  await work;
}

function createParser(headers: IncomingHttpHeaders): busboy.Busboy {
  try {
    return busboy({
      headers,
      preservePath: true,
      defParamCharset: "utf8",
      defCharset: "latin1", // fields keep their bytes this way
      fileHwm: 256 * 1024,
      limits: {
        files: uploadedFilesMax,
        fields: 100,
        parts: uploadedFilesMax + 100,
        fieldNameSize: 256,
        fieldSize: fieldBytesMax,
        headerPairs: 64,
      },
    });
  } catch (error) {
    throw new HttpError(400, "the content type is not valid multipart/form-data", error);
  }
}

/** The parser's complaints are plain errors with nothing to tell them by. */
function toFormError(error: unknown): unknown {
  const isPlain = error instanceof Error && error.constructor === Error && errnoOf(error) === undefined && !("code" in error);
  return isPlain ? new HttpError(400, `error reading form: ${error.message}`, error) : error;
}
