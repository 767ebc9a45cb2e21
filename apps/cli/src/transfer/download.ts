import { chmod, open, rename, rm, stat } from "node:fs/promises";
import { randomBytes } from "node:crypto";
import { basename, dirname, join, resolve } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import { fileBytesMax, type FileEntry } from "@roost/contract";
import type { ExecStream, SandboxHandle } from "@roost/sdk";

import type { CopyOptions, CopyResult } from "../commands/copy.ts";
import type { CommandContext } from "../context.ts";
import { CliError } from "../failure.ts";
import { printable } from "../output/printable.ts";
import { countBytes, Progress } from "../output/progress.ts";
import { write } from "../output/write.ts";
import type { CopyEnd } from "../parse/remote-path.ts";
import { extractTar } from "./extract-tar.ts";
import { guestPath, packScript, TarMessages } from "./guest-tar.ts";

/** Names of skipped entries shown in the warning. */
const skippedShownMax = 5;

export async function download(
  context: CommandContext,
  sandbox: SandboxHandle,
  path: string,
  destination: Exclude<CopyEnd, { kind: "remote" }>,
  options: CopyOptions,
): Promise<CopyResult> {
  const entry = await sandbox.files.stat(path, { user: options.user, signal: context.signal });
  if (destination.kind === "stream") {
    if (entry.type === "directory") return downloadArchive(context, sandbox, path, options);
    const bytes = await readFile(context, sandbox, path, entry, options, async (data) => writeAll(context, data));
    return { from: `${sandbox.id}:${path}`, to: "-", files: 1, bytes };
  }
  const name = nameOf(entry, path);
  const local = resolve(context.io.cwd, destination.path);
  const isIntoFolder = destination.path.endsWith("/") || (await isFolder(local));
  if (entry.type === "directory") {
    const isContents = /(^|\/)\.$/.test(path) && path !== ".";
    const target = (await isFolder(local)) && !isContents ? join(local, name) : local;
    return downloadFolder(context, sandbox, path, target, options);
  }
  const target = isIntoFolder ? join(local, name) : local;
  const bytes = await readFile(context, sandbox, path, entry, options, async (data) => saveFile(target, data, entry.mode));
  return { from: `${sandbox.id}:${path}`, to: target, files: 1, bytes };
}

/** The name is the guest's word: only a plain one is taken. */
function nameOf(entry: FileEntry, path: string): string {
  const name = /(^|\/)\.?$/.test(path) || path === "~" ? entry.name : basename(path);
  if (name === "" || name === "." || name === ".." || /[/\0]/.test(name)) {
    throw new CliError(`${path} has no name of its own here`, { hint: "give the destination a name" });
  }
  return name;
}

async function isFolder(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isDirectory() === true;
}

async function readFile(
  context: CommandContext,
  sandbox: SandboxHandle,
  path: string,
  entry: FileEntry,
  options: CopyOptions,
  save: (data: AsyncIterable<Buffer>) => Promise<void>,
): Promise<number> {
  const text = `copying ${printable(entry.name)}`;
  using progress = new Progress(context, text);
  const { stream, size } = await sandbox.files.read(path, { user: options.user, signal: context.signal });
  let bytes = 0;
  const bounded = async function* () {
    for await (const chunk of countBytes(stream as AsyncIterable<Buffer>, progress, text, size)) {
      bytes += chunk.length;
      if (bytes > fileBytesMax) throw new CliError(`${path} is longer than ${fileBytesMax} bytes`);
      yield chunk;
    }
  };
  await save(bounded());
  return bytes;
}

async function writeAll(context: CommandContext, data: AsyncIterable<Buffer>): Promise<void> {
  for await (const chunk of data) await write(context.io.stdout, chunk);
}

/** Under another name until it is whole: a copy that breaks off leaves nothing that looks like the file. */
async function saveFile(target: string, data: AsyncIterable<Buffer>, mode: number): Promise<void> {
  const staging = join(dirname(target), `.${basename(target).slice(0, 200)}.${randomBytes(4).toString("hex")}.part`);
  try {
    // Opened first: a stream that opens it itself may make it after it was ended and the file removed.
    await using file = await open(staging, "wx");
    await pipeline(Readable.from(data, { objectMode: false }), file.createWriteStream());
    if ((mode & 0o111) !== 0) await chmod(staging, 0o777 & ~process.umask());
    await rename(staging, target);
  } catch (error) {
    await rm(staging, { force: true });
    throw error;
  }
}

async function openArchive(context: CommandContext, sandbox: SandboxHandle, path: string, options: CopyOptions): Promise<ExecStream> {
  const args = ["-c", packScript, "sh", guestPath(path)];
  return sandbox.execStream("sh", { args, cwd: "~", user: options.user, signal: context.signal });
}

/** The archive's bytes; fails when the guest's tar does. Its exit code 1 means that files changed while it read. */
async function* archiveBytes(context: CommandContext, stream: ExecStream, path: string): AsyncGenerator<Buffer> {
  const messages = new TarMessages();
  for await (const event of stream) {
    if (event.type === "stdout") yield event.data;
    else if (event.type === "stderr") messages.add(event.data);
    else if (event.exitCode === 1) await context.warn(messages.text);
    else if (event.exitCode !== 0) throw messages.failure(`copying from ${path}`, event.exitCode);
  }
}

async function downloadArchive(context: CommandContext, sandbox: SandboxHandle, path: string, options: CopyOptions): Promise<CopyResult> {
  if (context.io.stdout.isTTY === true)
    throw new CliError(`${path} is a folder, which comes as a tar archive`, { hint: "pipe it into a file or tar" });
  await using stream = await openArchive(context, sandbox, path, options);
  let bytes = 0;
  for await (const chunk of archiveBytes(context, stream, path)) {
    bytes += chunk.length;
    await write(context.io.stdout, chunk);
  }
  return { from: `${sandbox.id}:${path}`, to: "-", files: 0, bytes };
}

async function downloadFolder(
  context: CommandContext,
  sandbox: SandboxHandle,
  path: string,
  target: string,
  options: CopyOptions,
): Promise<CopyResult> {
  const text = `copying ${printable(basename(target))}`;
  using progress = new Progress(context, text);
  await using stream = await openArchive(context, sandbox, path, options);
  const bytes = countBytes(archiveBytes(context, stream, path), progress, text, undefined);
  const extracted = await extractTar(bytes, target);
  if (extracted.skipped.length > 0) {
    const names = extracted.skipped.slice(0, skippedShownMax).map(({ name, why }) => `${printable(name)} (${why})`);
    const more = extracted.skipped.length > skippedShownMax ? ` and ${extracted.skipped.length - skippedShownMax} more` : "";
    await context.warn(`not copied: ${names.join(", ")}${more}`);
  }
  return { from: `${sandbox.id}:${path}`, to: target, files: extracted.files, bytes: extracted.bytes };
}
