import { fork } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { poll, silentLogger } from "@roost/kit";
import { expect, test } from "vitest";

import { Audit } from "../audit/audit.ts";
import { ApiKeys } from "../teams/api-keys.ts";
import { own } from "../testing/first-team.ts";
import { openDatabase } from "./database.ts";
import { findSandbox } from "./sandboxes.ts";

const writer = fileURLToPath(new URL("../testing/durability-writer.ts", import.meta.url));

/** Runs the writer until it has acknowledged `count` rows, then kills it in the middle of the next. */
async function writeAndKill(folder: string, count: number): Promise<{ readonly acknowledged: string[]; readonly fsyncs: number }> {
  const child = fork(writer, [folder], {
    execArgv: ["--import", "tsx", "--conditions=@roost/source"],
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const acknowledged: string[] = [];
  let fsyncs = 0;
  await new Promise<void>((resolve, reject) => {
    child.on("message", (message) => {
      const row = message as { id: string; fsyncs: number };
      acknowledged.push(row.id);
      fsyncs = row.fsyncs;
      if (acknowledged.length === count) child.kill("SIGKILL");
    });
    child.once("exit", (_code, signal) => (signal === "SIGKILL" ? resolve() : reject(new Error("the writer ended by itself"))));
  });
  return { acknowledged, fsyncs };
}

test("what was acknowledged is there after kill -9, again and again, and every commit was fsynced", { timeout: 180_000 }, async () => {
  const folder = await mkdtemp(join(tmpdir(), "roost-durability-"));
  try {
    const written: string[] = [];
    for (const count of [5, 40]) {
      const { acknowledged, fsyncs } = await writeAndKill(join(folder, "db"), count);
      expect(fsyncs).toBeGreaterThanOrEqual(acknowledged.length);
      written.push(...acknowledged);
      await using database = await openDatabase({ kind: "folder", path: join(folder, "db") }, silentLogger);
      for (const id of written) expect(await findSandbox(database.db, own(id)), id).toMatchObject({ state: "creating" });
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test("a first start that was killed in the middle does not keep the next one from starting", { timeout: 120_000 }, async () => {
  const folder = await mkdtemp(join(tmpdir(), "roost-durability-"));
  try {
    const path = join(folder, "db");
    const child = fork(writer, [path], {
      execArgv: ["--import", "tsx", "--conditions=@roost/source"],
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    const ended = new Promise((resolve) => child.once("exit", resolve));
    await poll({ what: "a half-made database", timeoutMs: 30_000 }, () => (existsSync(`${path}.new/PG_VERSION`) ? true : undefined));
    child.kill("SIGKILL");
    await ended;
    await using database = await openDatabase({ kind: "folder", path }, silentLogger);
    await database.ping();
    expect((await stat(path)).mode & 0o777).toBe(0o700);
    expect(existsSync(`${path}.new`)).toBe(false);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test("the second database of a machine is a copy of the first one's beginning", { timeout: 120_000 }, async () => {
  const folder = await mkdtemp(join(tmpdir(), "roost-durability-"));
  const cacheFolder = join(folder, "cache");
  try {
    for (const name of ["first", "second"]) {
      await using database = await openDatabase({ kind: "folder", path: join(folder, name, "db"), cacheFolder }, silentLogger);
      expect(await database.db.selectFrom("api_key").selectAll().execute()).toEqual([]);
      await new ApiKeys({ db: database.db, audit: new Audit(), log: silentLogger }).createForPlatform(name);
      expect((await stat(join(folder, name, "db"))).mode & 0o777).toBe(0o700);
    }
    expect(await readdir(cacheFolder)).toEqual([expect.stringMatching(/^database-[0-9a-f]{16}$/)]);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
