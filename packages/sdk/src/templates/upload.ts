import { createReadStream } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";

import { checkAnswer, type Api } from "../api.ts";
import { savingTimeoutMs } from "../connection.ts";
import { packArchive, readArchive, type BuildArchive } from "./context/archive.ts";
import { adding, type FileProgress } from "./file-progress.ts";

export interface UploadOptions {
  /** Of the template, perhaps with a tag */
  readonly name: string;
  readonly signal?: AbortSignal | undefined;
  readonly onFiles?: ((progress: FileProgress) => void) | undefined;
}

/** Sends an archive unless the platform has it. */
export async function uploadArchive(api: Api, hash: string, archive: BuildArchive, options: UploadOptions): Promise<void> {
  const { name, signal, onFiles } = options;
  const call = { path: { hash }, query: { name: name.replace(/:.*$/s, "") } };
  if ((await api.call("findTemplateFiles", call, { signal })).is_present) return;
  const send = async (content: AsyncIterable<Buffer>, total: number) => {
    const onBytes = adding((bytes) => onFiles?.({ stage: "sending", bytes, total }));
    const body = Readable.from(counted(content, onBytes), { objectMode: false });
    const headers = { "content-type": "application/octet-stream", "content-length": String(total) };
    await checkAnswer("putTemplateFiles", await api.raw("putTemplateFiles", { ...call, body, headers }, savingTimeoutMs({ signal })));
  };
  if (archive.kind === "file") {
    await send(readArchive(archive, hash, { signal }), archive.size);
    return;
  }
  // into a file before, because the length has to be said first
  const folder = await mkdtemp(join(tmpdir(), "roost-files-"));
  try {
    const path = join(folder, "files.tar");
    const onBytes = adding((bytes) => onFiles?.({ stage: "packing", bytes }));
    const total = await packArchive(archive, hash, path, { signal, onBytes });
    await send(createReadStream(path) as AsyncIterable<Buffer>, total);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function* counted(source: AsyncIterable<Buffer>, count: (bytes: number) => void): AsyncGenerator<Buffer, void, void> {
  for await (const chunk of source) {
    count(chunk.length);
    yield chunk;
  }
}
