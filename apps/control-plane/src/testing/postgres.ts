import { execFileSync, spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { chown, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { poll } from "@roost/kit";
import pg from "pg";

/** Root may not run PostgreSQL; it is then run as this user (nobody) */
const unprivilegedId = 65_534;

function findBinaries(): string | undefined {
  const debian = "/usr/lib/postgresql";
  const versions = existsSync(debian) ? readdirSync(debian).sort().reverse() : [];
  const folders = ["/usr/local/bin", "/usr/bin", ...versions.map((version) => join(debian, version, "bin"))];
  return folders.find((folder) => existsSync(join(folder, "initdb")) && existsSync(join(folder, "postgres")));
}

/** Why there is no PostgreSQL to test with; undefined when there is. */
export function whyNoPostgres(): string | undefined {
  return findBinaries() === undefined ? "no PostgreSQL server is installed (Debian: postgresql)" : undefined;
}

export interface TestPostgres extends AsyncDisposable {
  /** A new, empty database. */
  createDatabase(): Promise<string>;
}

/** A PostgreSQL server of our own, in a temporary folder, on a socket only. */
export async function startPostgres(): Promise<TestPostgres> {
  const binaries = findBinaries();
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
  const server = spawn(join(binaries, "postgres"), ["-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"], {
    ...options,
    stdio: "ignore",
  });
  const ended = new Promise((resolve) => server.once("exit", resolve));
  const urlOf = (name: string) => `postgres://roost@/${name}?host=${encodeURIComponent(folder)}`;
  const admin = async (statement: string) => {
    const client = new pg.Client({ connectionString: urlOf("postgres") });
    await client.connect();
    try {
      await client.query(statement);
    } finally {
      await client.end();
    }
  };
  await poll({ what: "PostgreSQL's first answer", timeoutMs: 20_000 }, async () => {
    await admin("SELECT 1");
    return true;
  });
  let count = 0;
  return {
    createDatabase: async () => {
      count += 1;
      await admin(`CREATE DATABASE test_${count}`);
      return urlOf(`test_${count}`);
    },
    [Symbol.asyncDispose]: async () => {
      server.kill("SIGINT"); // "fast" shutdown: ends connections
      await ended;
      await rm(folder, { recursive: true, force: true });
    },
  };
}
