import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, rm, rmdir } from "node:fs/promises";
import { dirname, join } from "node:path";

import { PGlite } from "@electric-sql/pglite";
import { minute, run, syncFolder, type Logger } from "@roost/kit";

import { durableStartParams, DurableNodeFs } from "./pglite-filesystem.ts";

/** Longest the file system may take in `ms` to copy or write out a new database, 40 MiB */
const fileTimeoutMs = 2 * minute;

/**
 * Makes the folder of an embedded database where there is none. It is made beside its place and moved there whole:
 * making one takes seconds, and one that was left half-made would never start again.
 *
 * An empty database is the same everywhere, so the first one made on a machine is kept in `cacheFolder`, and later ones
 * are copies of it: a fraction of a second instead of five.
 */
export async function makeDatabaseFolder(path: string, cacheFolder: string | undefined, log: Logger): Promise<void> {
  if (existsSync(join(path, "PG_VERSION"))) return;
  const staging = `${path}.new`;
  await rm(staging, { recursive: true, force: true });
  await mkdir(dirname(path), { recursive: true });
  const empty = cacheFolder === undefined ? undefined : join(cacheFolder, `database-${await engineKey()}`);
  if (empty !== undefined && existsSync(empty)) await copy(empty, staging);
  else {
    await make(staging);
    if (empty !== undefined)
      await keep(staging, empty).catch((error: unknown) => log.debug({ err: error }, "no empty database is kept for next time"));
  }
  await run(["sync", "-f", staging], { timeoutMs: fileTimeoutMs });
  await rmdir(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
  await rename(staging, path);
  await syncFolder(dirname(path));
}

async function make(folder: string): Promise<void> {
  // The engine makes its files readable for everybody: nobody else may even reach them.
  await mkdir(folder, { mode: 0o700 });
  const fresh = await PGlite.create({ fs: new DurableNodeFs(folder), startParams: [...durableStartParams] });
  await fresh.close();
}

/** Puts a copy in the cache, as a whole or not at all; of several at once the last one stays. */
async function keep(folder: string, empty: string): Promise<void> {
  await mkdir(dirname(empty), { recursive: true });
  const staging = `${empty}.${process.pid}.new`;
  try {
    await copy(folder, staging);
    await run(["sync", "-f", staging], { timeoutMs: fileTimeoutMs });
    await rename(staging, empty);
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
}

async function copy(from: string, to: string): Promise<void> {
  await run(["cp", "--archive", "--reflink=auto", from, to], { timeoutMs: fileTimeoutMs });
}

/** What the form of an empty database depends on. */
async function engineKey(): Promise<string> {
  const manifest = JSON.parse(await readFile(new URL("../package.json", import.meta.resolve("@electric-sql/pglite")), "utf8")) as {
    version: string;
  };
  return createHash("sha256")
    .update(`${manifest.version}\n${durableStartParams.join(" ")}`)
    .digest("hex")
    .slice(0, 16);
}
