import { createReadStream } from "node:fs";
import { stat, unlink } from "node:fs/promises";
import type { IncomingMessage } from "node:http";

import { fileBytesMax, jsonBodyBytesMax } from "@roost/contract";
import { Cleanup, formatBytes, MiB } from "@roost/kit";
import { z } from "zod";

import { baseName } from "../filesystem/disk-path.ts";
import { isMissing } from "../filesystem/file-errors.ts";
import type { GuestUser } from "../users/users.ts";
import { HttpError } from "../http/http-error.ts";
import { readWhole } from "./request-body.ts";
import { StagedFile } from "./staged-file.ts";
import type { UploadedFile } from "./upload.ts";

/** Parts of one file; object stores of the wider world have the same limit. */
const sourcesMax = 10_000;

const composeSchema = z.object({
  source_paths: z.array(z.string().min(1)).min(1, "source_paths must not be empty").max(sourcesMax),
  destination: z.string().min(1, "destination is required"),
  username: z.string().optional(),
});
export type ComposeRequest = z.infer<typeof composeSchema>;

export async function readComposeRequest(request: IncomingMessage): Promise<ComposeRequest> {
  const text = (await readWhole(request, jsonBodyBytesMax)).toString("utf8");
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new HttpError(400, "invalid request body: not JSON", error);
  }
  const parsed = composeSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new HttpError(400, `invalid request body: ${issue?.path.join(".") ?? ""} ${issue?.message ?? ""}`.trim());
}

/**
 * Joins files that were uploaded in parts, in the order given, and removes the parts. The destination appears as a
 * whole, and the parts go only after it did.
 */
export async function composeFiles(
  sources: readonly string[],
  destination: string,
  user: GuestUser,
  bytesMax: number = fileBytesMax,
): Promise<UploadedFile> {
  let bytes = 0;
  for (const source of sources) {
    if (source === destination) throw new HttpError(400, `source path '${source}' cannot be the same as destination`);
    const stats = await stat(source).catch((error: unknown) => {
      throw isMissing(error) ? new HttpError(404, `source file not found: ${source}`) : error;
    });
    if (!stats.isFile()) throw new HttpError(400, `source path is not a regular file: ${source}`);
    bytes += stats.size;
  }
  if (bytes > bytesMax) throw new HttpError(413, `the parts are larger than ${formatBytes(bytesMax)} together`);
  await using cleanup = new Cleanup();
  const file = await StagedFile.open(destination, user);
  cleanup.defer("discard a composed file", async () => file.abort());
  for (const source of sources) await file.write(createReadStream(source, { highWaterMark: 1 * MiB }) as AsyncIterable<Buffer>);
  await file.commit({});
  for (const source of new Set(sources)) {
    await unlink(source).catch((error: unknown) => {
      if (!isMissing(error)) throw error;
    });
  }
  return { path: destination, name: baseName(destination), type: "file" };
}
