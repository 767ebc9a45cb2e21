import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chown, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { poll } from "@roost/kit";
import pg from "pg";

import { findPostgres, whyNoPostgres } from "./postgres-binaries.ts";

/** Root may not run PostgreSQL; it is then run as this user (nobody) */
const unprivilegedId = 65_534;
/** Connections to one server: files of tests run at once, and each control plane in them has a pool of ten */
const connectionsMax = 300;

export interface TestPostgres extends AsyncDisposable {
  /** of the server's own database */
  readonly url: string;
  /** A new database: empty, or a copy of one that nobody is connected to. */
  createDatabase(template?: string): Promise<string>;
}

/** A PostgreSQL server of our own, in a temporary folder, on a socket only. */
export async function startPostgres(): Promise<TestPostgres> {
  const binaries = findPostgres();
  if (binaries === undefined) throw new Error(whyNoPostgres());
  const folder = await mkdtemp(join(tmpdir(), "roost-postgres-"));
  const data = join(folder, "data");
  const isRoot = process.getuid?.() === 0;
  const identity = isRoot ? { uid: unprivilegedId, gid: unprivilegedId } : {};
  if (isRoot) await chown(folder, unprivilegedId, unprivilegedId);
  const options = { cwd: folder, ...identity, env: { PATH: process.env["PATH"], HOME: folder, LANG: "C.UTF-8" } };
  execFileSync(join(binaries, "initdb"), ["-D", data, "-U", "roost", "-A", "trust", "-E", "UTF8", "--no-sync"], {
    ...options,
    stdio: "pipe",
  });
  const settings = ["listen_addresses=", "fsync=off", `max_connections=${connectionsMax}`].flatMap((setting) => ["-c", setting]);
  const server = spawn(join(binaries, "postgres"), ["-D", data, "-k", folder, ...settings], { ...options, stdio: "ignore" });
  const ended = new Promise((resolve) => server.once("exit", resolve));
  const stop = async () => {
    server.kill("SIGINT"); // "fast" shutdown: ends connections
    await ended;
    await rm(folder, { recursive: true, force: true });
  };
  const url = `postgres://roost@/postgres?host=${encodeURIComponent(folder)}`;
  try {
    await poll({ what: "PostgreSQL's first answer", timeoutMs: 20_000 }, async () => {
      await administer(url, "SELECT 1");
      return true;
    });
  } catch (error) {
    await stop();
    throw error;
  }
  return { url, createDatabase: async (template) => createDatabase(url, template), [Symbol.asyncDispose]: stop };
}

/** Databases on a server that somebody else started and ends; disposing drops them. */
export function databasesOn(url: string): TestPostgres {
  const made: string[] = [];
  return {
    url,
    createDatabase: async (template) => {
      const database = await createDatabase(url, template);
      made.push(database);
      return database;
    },
    [Symbol.asyncDispose]: async () => {
      for (const database of made.splice(0)) await administer(url, `DROP DATABASE ${databaseNameOf(database)} WITH (FORCE)`);
    },
  };
}

/** The name of the database that a URL of `createDatabase` is of. */
export function databaseNameOf(url: string): string {
  return new URL(url.replace("@/", "@socket/")).pathname.slice(1);
}

async function createDatabase(url: string, template = "template1"): Promise<string> {
  const name = `test_${randomBytes(8).toString("hex")}`;
  await administer(url, `CREATE DATABASE ${name} TEMPLATE ${template}`);
  return url.replace("@/postgres?", `@/${name}?`);
}

async function administer(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
