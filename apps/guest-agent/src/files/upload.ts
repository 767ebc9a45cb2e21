import type { IncomingMessage } from "node:http";
import { pipeline } from "node:stream/promises";

import { fileBytesMax } from "@roost/contract";
import { Cleanup } from "@roost/kit";

import { baseName } from "../filesystem/disk-path.ts";
import type { Metadata } from "../filesystem/metadata.ts";
import type { GuestUser } from "../users/users.ts";
import { HttpError } from "../http/http-error.ts";
import { metadataOf } from "./metadata-headers.ts";
import { readMultipart } from "./multipart-body.ts";
import { isSmallAndPlain, openBody, readWhole, toBodyError } from "./request-body.ts";
import { StagedFile } from "./staged-file.ts";

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

  const stage = async (written: string, write: (file: StagedFile) => Promise<void>) => {
    const path = options.expandPath(written);
    if (staged.has(path)) throw new HttpError(400, `you cannot upload multiple files to the same path '${path}' in one upload request`);
    const file = await StagedFile.open(path, options.user);
    cleanup.defer("discard an upload", async () => file.abort());
    staged.set(path, file);
    await write(file);
  };

  const bytesMax = options.bytesMax ?? fileBytesMax;
  const openContent = () => openBody(request, bytesMax);
  const mediaType = (request.headers["content-type"] ?? "").split(";", 1)[0]?.trim().toLowerCase() ?? "";
  try {
    if (mediaType === "application/octet-stream") {
      if (options.path === undefined) throw new HttpError(400, "path query parameter is required for raw body upload");
      const path = options.path;
      if (isSmallAndPlain(request)) {
        const content = await readWhole(request, bytesMax);
        await stage(path, async (file) => file.write(content));
      } else await stage(path, async (file) => pipeline([...openContent(), file.writable()]));
    } else if (mediaType.startsWith("multipart/")) {
      await readMultipart(openContent(), request.headers, async (part) => {
        const written = options.path ?? part.filename;
        if (written === undefined || written === "") throw new HttpError(400, "a part 'file' has no file name, and no path is given");
        await stage(written, async (file) => {
          for await (const chunk of part.content) await file.write(chunk);
        });
      });
    } else {
      throw new HttpError(400, "unsupported content type: expected multipart/form-data or application/octet-stream");
    }
  } catch (error) {
    throw toBodyError(error);
  }
  for (const file of staged.values()) await file.commit(metadata);
  const told = Object.keys(metadata).length === 0 ? {} : { metadata };
  return [...staged.keys()].map((path) => ({ name: baseName(path), path, type: "file", ...told }));
}
