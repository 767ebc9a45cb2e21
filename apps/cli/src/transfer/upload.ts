import { createReadStream } from "node:fs";
import { lstat, stat } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { Readable } from "node:stream";

import type { SandboxHandle } from "@roost/sdk";
import { create as createTar } from "tar";

import type { CopyOptions, CopyResult } from "../commands/copy.ts";
import type { CommandContext } from "../context.ts";
import { CliError } from "../failure.ts";
import { countBytes, Progress } from "../output/progress.ts";
import type { CopyEnd } from "../parse/remote-path.ts";
import { guestPath, TarMessages, unpackScript } from "./guest-tar.ts";

/** Bytes read from a local file at once. */
const chunkBytes = 256 * 1024;

export async function upload(
  context: CommandContext,
  sandbox: SandboxHandle,
  source: Exclude<CopyEnd, { kind: "remote" }>,
  path: string,
  options: CopyOptions,
): Promise<CopyResult> {
  if (source.kind === "stream") return uploadStream(context, sandbox, path, options);
  const local = resolve(context.io.cwd, source.path);
  const stats = await stat(local).catch((error: Error) => {
    throw new CliError(`cannot read ${source.path}: ${error.message}`, { cause: error });
  });
  if (stats.isDirectory()) return uploadFolder(context, sandbox, source.path, local, path, options);
  const destination = await placeIn(context, sandbox, path, basename(local), options);
  using progress = new Progress(context, `copying ${basename(local)}`);
  const bytes = countBytes(createReadStream(local, { highWaterMark: chunkBytes }), progress, `copying ${basename(local)}`, stats.size);
  // a file that changes while it is read would break its announced length, so only a regular file announces one
  const size = stats.isFile() ? stats.size : undefined;
  const entry = await sandbox.files.write(destination, Readable.from(bytes, { objectMode: false }), {
    size,
    user: options.user,
    signal: context.signal,
  });
  if ((stats.mode & 0o111) !== 0) await makeExecutable(context, sandbox, entry.path, options);
  return { from: source.path, to: `${sandbox.id}:${entry.path}`, files: 1, bytes: entry.size };
}

async function uploadStream(context: CommandContext, sandbox: SandboxHandle, path: string, options: CopyOptions): Promise<CopyResult> {
  const found = await sandbox.files.find(path, { user: options.user, signal: context.signal });
  if (found?.type === "directory") throw new CliError(`${path} is a folder; standard input needs the name of a file`);
  using progress = new Progress(context, "copying standard input");
  const bytes = countBytes(context.io.stdin as AsyncIterable<Buffer>, progress, "copying standard input", undefined);
  const entry = await sandbox.files.write(path, Readable.from(bytes, { objectMode: false }), {
    user: options.user,
    signal: context.signal,
  });
  return { from: "-", to: `${sandbox.id}:${entry.path}`, files: 1, bytes: entry.size };
}

/** Like `cp`: into a folder that is there, otherwise to that very name. */
async function placeIn(context: CommandContext, sandbox: SandboxHandle, path: string, name: string, options: CopyOptions): Promise<string> {
  const found = await sandbox.files.find(path, { user: options.user, signal: context.signal });
  const isFolder = found?.type === "directory" || (found === undefined && path.endsWith("/"));
  return isFolder ? `${path.replace(/\/+$/, "")}/${name}` : path;
}

async function makeExecutable(context: CommandContext, sandbox: SandboxHandle, path: string, options: CopyOptions): Promise<void> {
  const result = await sandbox.exec("chmod", { args: ["+x", "--", path], user: options.user, signal: context.signal });
  if (result.exit_code !== 0) await context.warn(`could not make ${path} executable: ${result.stderr.trim()}`);
}

/** `folder/.` copies what is in the folder, `folder` the folder itself (into a destination that is there). */
async function uploadFolder(
  context: CommandContext,
  sandbox: SandboxHandle,
  given: string,
  local: string,
  path: string,
  options: CopyOptions,
): Promise<CopyResult> {
  const isContents = /(^|\/)\.$/.test(given);
  const found = await sandbox.files.find(path, { user: options.user, signal: context.signal });
  if (found !== undefined && found.type !== "directory") throw new CliError(`${path} in the sandbox is a file, not a folder`);
  const target = isContents || found === undefined ? path : `${path.replace(/\/+$/, "")}/${basename(local)}`;
  using progress = new Progress(context, `copying ${basename(local)}`);
  let files = 0;
  let bytes = 0;
  const archive = createTar({ cwd: local, portable: true, onWriteEntry: (entry) => void (entry.type === "File" && (files += 1)) }, ["."]);
  const stream = await sandbox.execStream("sh", {
    args: ["-c", unpackScript, "sh", guestPath(target)],
    cwd: "~",
    user: options.user,
    stdin: true,
    signal: context.signal,
  });
  const messages = new TarMessages();
  const counted = countBytes(Readable.from(archive), progress, `copying ${basename(local)}`, undefined);
  const writing = (async () => {
    for await (const chunk of counted) {
      bytes += chunk.length;
      await stream.write(chunk);
    }
    await stream.closeStdin();
  })();
  // a local file that cannot be read ends the copy; a guest's tar that ends early tells itself why
  const failed = writing.then(
    () => new Promise<never>(() => undefined),
    async (error: unknown) => {
      if ((error as NodeJS.ErrnoException).syscall === undefined) return new Promise<never>(() => undefined);
      throw error;
    },
  );
  const exited = (async () => {
    for await (const event of stream) {
      if (event.type === "exit") return event.exitCode;
      messages.add(event.data);
    }
    return 1;
  })();
  try {
    const exitCode = await Promise.race([exited, failed]);
    if (exitCode !== 0) throw messages.failure(`copying to ${path}`, exitCode);
  } finally {
    stream.close();
  }
  await lstat(local); // the folder is still there: what was read was all of it
  return { from: given, to: `${sandbox.id}:${target}`, files, bytes };
}
