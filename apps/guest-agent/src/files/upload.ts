import type { IncomingMessage } from "node:http";

import { fileBytesMax } from "@roost/contract";
import { Cleanup } from "@roost/kit";

import { baseName } from "../filesystem/disk-path.ts";
import type { Metadata } from "../filesystem/metadata.ts";
import type { GuestUser } from "../users/users.ts";
import { HttpError } from "../http/http-error.ts";
import { metadataOf } from "./metadata-headers.ts";
import { MultipartParser } from "./multipart-parser.ts";
import { boundaryOf } from "./part-header.ts";
import { isSmallAndPlain, openBody, readWhole, toBodyError } from "./request-body.ts";
import { StagedFile } from "./staged-file.ts";

/** Parts of one request; each file among them holds a descriptor until all are complete. */
const partsMax = 1000;

export interface UploadedFile {
  readonly name: string;
  readonly path: string;
  readonly type: "file";
  readonly metadata?: Metadata;
}

export interface UploadOptions {
  readonly user: GuestUser;
  /** `?path`: where the file goes; without it each part's file name says it */
  readonly path: string | undefined;
  /** Absolute form of what the sender wrote. */
  readonly expandPath: (path: string) => string;
  /** Content of one request, unzipped, in `bytes`. */
  readonly bytesMax?: number;
}

/**
 * Takes the files of one request. They appear, each as a whole, when the last byte of the last one has come and was
 * valid; if anything goes wrong before, none does.
 */
export async function receiveFiles(request: IncomingMessage, options: UploadOptions): Promise<UploadedFile[]> {
  const metadata = metadataOf(request);
  const staged = new Map<string, StagedFile>();
  await using cleanup = new Cleanup();

  const stage = async (written: string, content: AsyncIterable<Buffer> | Iterable<Buffer>) => {
    const path = options.expandPath(written);
    if (staged.has(path)) throw new HttpError(400, `you cannot upload multiple files to the same path '${path}' in one upload request`);
    const file = await StagedFile.open(path, options.user);
    cleanup.defer("discard an upload", async () => file.abort());
    staged.set(path, file);
    await file.write(content);
  };
  const stageForm = async (form: MultipartParser) => {
    let parts = 0;
    for (let part = await form.next(); part !== undefined; part = await form.next()) {
      parts += 1;
      if (parts > partsMax) throw new HttpError(413, `at most ${partsMax} parts in one request`);
      if (part.name !== "file") continue;
      const written = options.path ?? part.filename;
      if (written === undefined || written === "") throw new HttpError(400, "a part 'file' has no file name, and no path is given");
      await stage(written, part.content);
    }
  };

  const bytesMax = options.bytesMax ?? fileBytesMax;
  const open = (): AsyncIterable<Buffer> => {
    const content = openBody(request, bytesMax);
    cleanup.defer("let go of the body", () => content.destroy());
    return content;
  };
  try {
    const contentType = request.headers["content-type"] ?? "";
    if (/^\s*application\/octet-stream\s*(?:;|$)/i.test(contentType)) {
      if (options.path === undefined) throw new HttpError(400, "path query parameter is required for raw body upload");
      await stage(options.path, isSmallAndPlain(request) ? [await readWhole(request, bytesMax)] : open());
    } else {
      const boundary = boundaryOf(contentType);
      if (boundary === undefined) {
        throw new HttpError(400, "unsupported content type: expected multipart/form-data with a boundary, or application/octet-stream");
      }
      await stageForm(new MultipartParser(open(), boundary));
    }
  } catch (error) {
    throw toBodyError(error);
  }
  for (const file of staged.values()) await file.commit(metadata);
  const told = Object.keys(metadata).length === 0 ? {} : { metadata };
  return [...staged.keys()].map((path) => ({ name: baseName(path), path, type: "file", ...told }));
}
