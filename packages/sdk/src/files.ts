import { Readable } from "node:stream";

import { endpoints, type FileEntry } from "@roost/contract";

import { checkAnswer, type Api } from "./api.ts";
import type { RequestOptions } from "./connection.ts";
import { RoostError } from "./errors.ts";
import { FileWatch } from "./file-watch.ts";
import { bodyOf } from "./http.ts";

export interface FileOptions extends RequestOptions {
  /** User inside the guest whose rights and home apply. */
  readonly user?: string | undefined;
}

export interface ReadOptions extends FileOptions {
  /** First byte to read. */
  readonly start?: number | undefined;
  /** Last byte to read, inclusive. */
  readonly end?: number | undefined;
}

export interface WriteOptions extends FileOptions {
  /** Length of a stream in `bytes`, when known. */
  readonly size?: number | undefined;
}

export interface FileDownload {
  readonly stream: Readable;
  /** In `bytes`; undefined when the server does not say. */
  readonly size: number | undefined;
}

export type FileData = string | Uint8Array | Readable | AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** Files of one sandbox. Paths are absolute or relative to the user's home. */
export class Files {
  readonly #api: Api;
  readonly #id: string;

  constructor(api: Api, id: string) {
    this.#api = api;
    this.#id = id;
  }

  /** A file's bytes as a stream; not reading it stops the transfer. */
  async read(path: string, options: ReadOptions = {}): Promise<FileDownload> {
    const isPart = options.start !== undefined || options.end !== undefined;
    const headers = isPart ? { range: `bytes=${options.start ?? 0}-${options.end ?? ""}` } : {};
    const answer = await this.#api.raw("readFile", { path: { id: this.#id }, query: { path, user: options.user }, headers }, options);
    const length = Number(answer.headers["content-length"] ?? Number.NaN);
    return { stream: bodyOf(answer, options.signal), size: Number.isSafeInteger(length) ? length : undefined };
  }

  async readBytes(path: string, options: ReadOptions = {}): Promise<Buffer> {
    const { stream } = await this.read(path, options);
    const chunks: Buffer[] = [];
    for await (const chunk of stream as AsyncIterable<Buffer>) chunks.push(chunk);
    return Buffer.concat(chunks);
  }

  async readText(path: string, options: ReadOptions = {}): Promise<string> {
    return (await this.readBytes(path, options)).toString("utf8");
  }

  /** Creates or replaces a file as a whole; missing parent folders are made. */
  async write(path: string, data: FileData, options: WriteOptions = {}): Promise<FileEntry> {
    const body = toReadable(data);
    const size = data instanceof Uint8Array || typeof data === "string" ? Buffer.byteLength(data) : options.size;
    const headers = { "content-type": "application/octet-stream", ...(size === undefined ? {} : { "content-length": String(size) }) };
    const input = { path: { id: this.#id }, query: { path, user: options.user }, body, headers };
    const answer = await this.#api.raw("writeFile", input, options);
    const checked = endpoints.writeFile.answers[200].parse(await checkAnswer("writeFile", answer));
    return checked.entry;
  }

  async list(path: string, options: FileOptions & { readonly depth?: number | undefined } = {}): Promise<FileEntry[]> {
    const body = { path, depth: options.depth, user: options.user };
    return (await this.#api.call("listFiles", { path: { id: this.#id }, body }, options)).entries;
  }

  async stat(path: string, options: FileOptions = {}): Promise<FileEntry> {
    return (await this.#api.call("statFile", { path: { id: this.#id }, body: { path, user: options.user } }, options)).entry;
  }

  /** Like `stat`, with undefined for what is not there. */
  async find(path: string, options: FileOptions = {}): Promise<FileEntry | undefined> {
    try {
      return await this.stat(path, options);
    } catch (error) {
      if (error instanceof RoostError && error.is("file_not_found")) return undefined;
      throw error;
    }
  }

  async exists(path: string, options: FileOptions = {}): Promise<boolean> {
    return (await this.find(path, options)) !== undefined;
  }

  async makeFolder(path: string, options: FileOptions = {}): Promise<FileEntry> {
    return (await this.#api.call("makeFolder", { path: { id: this.#id }, body: { path, user: options.user } }, options)).entry;
  }

  async move(source: string, destination: string, options: FileOptions = {}): Promise<FileEntry> {
    const body = { source, destination, user: options.user };
    return (await this.#api.call("moveFile", { path: { id: this.#id }, body }, options)).entry;
  }

  /** Removes a file or a whole folder; a missing one is fine. */
  async remove(path: string, options: FileOptions = {}): Promise<void> {
    await this.#api.call("removeFile", { path: { id: this.#id }, body: { path, user: options.user } }, options);
  }

  /** Resolves when the watch is in place. */
  async watch(path: string, options: FileOptions & { readonly recursive?: boolean | undefined } = {}): Promise<FileWatch> {
    const query = { path, user: options.user, recursive: options.recursive === true ? "true" : undefined };
    const input = { path: { id: this.#id }, query };
    return FileWatch.started(await this.#api.socket("watchFiles", endpoints.watchFiles.webSocket.server, input, options));
  }
}

function toReadable(data: FileData): Readable {
  if (data instanceof Readable) return data;
  if (typeof data === "string") return Readable.from([Buffer.from(data)], { objectMode: false });
  // as an array, because Readable.from of bytes alone would send them one by one
  if (data instanceof Uint8Array) return Readable.from([data], { objectMode: false });
  return Readable.from(data, { objectMode: false });
}
