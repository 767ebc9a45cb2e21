import { createHash } from "node:crypto";
import { readFile, rename, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { PGlite } from "@electric-sql/pglite";

/** Raise to make dumps of an older form be made anew. */
const dumpVersion = 1;

let dump: Promise<Blob> | undefined;

/**
 * A database without tables, for PGlite to load: making one takes it seconds, loading this a fraction. It is kept in the
 * machine's temporary folder between runs.
 */
export async function emptyDatabase(): Promise<Blob> {
  dump ??= loadDump();
  return dump;
}

async function loadDump(): Promise<Blob> {
  const key = createHash("sha256")
    .update(`${dumpVersion}\n${PGlite.defaultStartParams.join(" ")}\n${process.version}\n${await pgliteVersion()}`)
    .digest("hex")
    .slice(0, 12);
  const path = join(tmpdir(), `roost-test-database-${key}.tar`);
  const kept = await readFile(path).catch(() => undefined);
  if (kept !== undefined) return new Blob([kept]);
  const empty = await PGlite.create();
  const made = await empty.dumpDataDir("none");
  await empty.close();
  const staging = `${path}.${process.pid}`;
  await writeFile(staging, Buffer.from(await made.arrayBuffer()));
  await rename(staging, path);
  return made;
}

async function pgliteVersion(): Promise<string> {
  const manifest = new URL("../package.json", import.meta.resolve("@electric-sql/pglite"));
  return (JSON.parse(await readFile(manifest, "utf8")) as { version: string }).version;
}
