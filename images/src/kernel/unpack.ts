import { createWriteStream } from "node:fs";
import { open, readFile, rm, stat } from "node:fs/promises";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { pipeline } from "node:stream/promises";

import { ImageBuildError } from "../image-build-error.ts";
import { findKernelPayload, isElf64, type KernelCompression } from "./bz-image.ts";

/** Program that unpacks standard input to standard output. */
export const unpackers: Readonly<Record<KernelCompression, readonly [string, ...string[]]>> = {
  gzip: ["gzip", "-dc"],
  lz4: ["lz4", "-dc"],
  zstd: ["zstd", "-dcq"],
  xz: ["xz", "-dc"],
};

/** Unpacks `input` into a file with one of the programs above. */
export async function unpackTo(path: string, compression: KernelCompression, input: Buffer, signal: AbortSignal): Promise<void> {
  const [program, ...args] = unpackers[compression];
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "pipe"], signal });
  const said: Buffer[] = [];
  child.stderr.on("data", (chunk: Buffer) => said.push(chunk));
  child.stdin.on("error", () => undefined); // a program that ends early shows in its exit code
  child.stdin.end(input);
  const [code] = (await Promise.all([once(child, "close"), pipeline(child.stdout, createWriteStream(path))]))[0] as [number | null];
  if (code !== 0) throw new ImageBuildError(`${program} could not unpack (exit ${code}): ${Buffer.concat(said).toString().trim()}`);
}

/** Writes the uncompressed kernel (vmlinux) inside `bzImage` to `path`. */
export async function extractVmlinux(bzImage: string, path: string, signal: AbortSignal): Promise<void> {
  const payload = findKernelPayload(await readFile(bzImage));
  await unpackTo(path, payload.compression, payload.data, signal);
  const { size } = await stat(path);
  if (size !== payload.unpackedBytes) throw new ImageBuildError(`the kernel unpacked to ${size} bytes instead of ${payload.unpackedBytes}`);
  const file = await open(path, "r");
  try {
    const start = Buffer.alloc(64);
    await file.read(start, 0, start.length, 0);
    if (!isElf64(start)) throw new ImageBuildError("the kernel did not unpack to an x86-64 ELF file");
  } finally {
    await file.close();
  }
}

/** Replaces `name.ko.xz` (newer Debian kernels) by `name.ko`, which busybox and every kernel can load. */
export async function unpackModule(path: string, signal: AbortSignal): Promise<void> {
  const [, plain, suffix] = /^(.*\.ko)\.(xz|zst|gz)$/.exec(path) ?? [];
  if (plain === undefined) return;
  const compression = ({ xz: "xz", zst: "zstd", gz: "gzip" } as const)[suffix as "xz" | "zst" | "gz"];
  await unpackTo(plain, compression, await readFile(path), signal);
  await rm(path);
}
