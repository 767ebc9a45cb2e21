import { silentLogger } from "@roost/kit";
import { sql } from "kysely";
import { afterAll, beforeAll, expect, test } from "vitest";

import { makeMigrationsModule, makeOpenApi, migrationsModule, openApiFile } from "../generate.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import type { Database } from "./database.ts";
import { listTemplates } from "./hosts.ts";
import { migrate, MigrationError, splitStatements } from "./migrate.ts";
import { migrations } from "./migrations.generated.ts";
import { findSandbox } from "./sandboxes.ts";
import { readFile } from "node:fs/promises";

let database: Database;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());

const options = { isExclusive: true, log: silentLogger };

test("the generated files are those their sources make (else: npm run generate -w @roost/control-plane)", async () => {
  expect(await readFile(migrationsModule, "utf8")).toBe(await makeMigrationsModule());
  expect(await readFile(openApiFile, "utf8")).toBe(makeOpenApi());
});

test("migrating again changes nothing", async () => {
  const before = await database.db.selectFrom("migration").selectAll().execute();
  await migrate(database.db, options);
  expect(await database.db.selectFrom("migration").selectAll().execute()).toEqual(before);
  expect(before.map((row) => row.number)).toEqual(migrations.map((migration) => migration.number));
});

test("an applied migration that was edited is refused, and so is a database of a newer version", async () => {
  const edited = migrations.map((migration) => ({ ...migration, sql: `${migration.sql}-- one more\n` }));
  await expect(migrate(database.db, { ...options, migrations: edited })).rejects.toThrow(/migration 1 \(initial\) was edited/);
  await expect(migrate(database.db, { ...options, migrations: [] })).rejects.toThrow(/newer version/);
});

test("a migration that fails leaves nothing of itself or of those before it", async () => {
  const bad = [
    ...migrations,
    { number: 8001, name: "good", sql: "CREATE TABLE half (x integer);\n" },
    { number: 8002, name: "bad", sql: "CREATE TABLE other (x integer);\nCREATE TABLE half (x integer);\n" },
  ];
  await expect(migrate(database.db, { ...options, migrations: bad })).rejects.toThrow(/already exists/);
  const tables = await sql<{
    name: string;
  }>`SELECT table_name AS name FROM information_schema.tables WHERE table_name IN ('half', 'other')`.execute(database.db);
  expect(tables.rows).toEqual([]);
  await migrate(database.db, options);
});

test("sandboxes and templates of the first version are kept, with what they had no word for", async () => {
  const old = await openTestDatabase(migrations.slice(0, 1));
  const { db } = old;
  try {
    await sql`INSERT INTO host VALUES ('h', '{}', now(), now())`.execute(db);
    await sql`INSERT INTO template VALUES ('h', 'base', 'sha256:0', 10)`.execute(db);
    await sql`INSERT INTO sandbox (id, host_id, template, vcpus, memory_mib, disk_size_mib, timeout_sec, access_token, state, generation,
      time_created, time_last_active, time_state_updated) VALUES ('iold', 'h', 'base', 1, 512, 10, 60, 't', 'running', 7, now(), now(), now())`.execute(
      db,
    );
    await migrate(db, options);
    expect(await findSandbox(db, own("iold"))).toMatchObject({
      state: "running",
      auto_resume: false,
      checkpoint_interval_sec: 0,
      start_path: null,
      current_generation: null,
      has_memory: false,
      time_paused: null,
      notice: null,
    });
    expect(await listTemplates(db)).toMatchObject([{ name: "base", kind: "base", vcpus: 0 }]);
  } finally {
    await old.close();
  }
});

test("what there was before teams belongs to the first one, and its keys still may do everything", async () => {
  const old = await openTestDatabase(migrations.filter(({ number }) => number <= 5));
  const { db } = old;
  const build = "00000000-0000-4000-8000-000000000001";
  try {
    await sql`INSERT INTO sandbox (id, host_id, template, vcpus, memory_mib, disk_size_mib, timeout_sec, access_token, state, generation,
      time_created, time_last_active, time_state_updated) VALUES ('iold', 'h', 'base', 1, 512, 10, 60, 't', 'running', 7, now(), now(), now())`.execute(
      db,
    );
    await sql`INSERT INTO built_template VALUES ('t1', 'app', false, now(), now())`.execute(db);
    await sql`INSERT INTO build (id, template_id, state, tags, vcpus, memory_mib, time_created)
      VALUES (${build}, 't1', 'waiting', '[]', 1, 512, now())`.execute(db);
    await sql`INSERT INTO api_key (id, name, hash, prefix, time_created) VALUES ('k1', 'mine', ${Buffer.alloc(32)}, 'abc', now())`.execute(
      db,
    );
    await sql`INSERT INTO event (id, host_id, time_created, kind, sandbox_id, template, message)
      VALUES ('e1', 'h', now(), 'sandbox.created', 'iold', NULL, ''), ('e2', 'h', now(), 'template.stale', NULL, 'base', ''),
        ('e3', 'h', now(), 'sandbox.failed', NULL, NULL, '')`.execute(db);
    await migrate(db, options);
    const teams = await db.selectFrom("team").select(["id", "slug", "quota"]).execute();
    expect(teams).toEqual([{ id: firstTeam, slug: "default", quota: {} }]);
    for (const table of ["sandbox", "built_template", "build", "api_key"] as const) {
      expect(await db.selectFrom(table).select("team_id").execute(), table).toEqual([{ team_id: firstTeam }]);
    }
    expect(await db.selectFrom("api_key").select(["is_admin", "scopes"]).execute()).toEqual([{ is_admin: true, scopes: null }]);
    const events = await db.selectFrom("event").select(["id", "team_id"]).orderBy("id").execute();
    expect(events.map(({ team_id: teamId }) => teamId)).toEqual([firstTeam, firstTeam, null]);
    // from now on, whose something is has to be said
    await expect(sql`INSERT INTO built_template VALUES ('t2', 'other', false, now(), now())`.execute(db)).rejects.toThrow(/team_id/);
    await sql`INSERT INTO api_key (id, team_id, name, hash, prefix, time_created)
      VALUES ('k2', 'default', 'new', ${Buffer.alloc(32, 1)}, 'abc', now())`.execute(db);
    expect(await db.selectFrom("api_key").select("is_admin").where("id", "=", "k2").executeTakeFirst()).toEqual({ is_admin: false });
  } finally {
    await old.close();
  }
});

test("MigrationError is what operators see", async () => {
  await expect(migrate(database.db, { ...options, migrations: [] })).rejects.toBeInstanceOf(MigrationError);
});

test("statements are split at the end of lines, comments dropped", () => {
  expect(splitStatements("-- head\nCREATE TABLE a (\n  -- column; with semicolon\n  x text DEFAULT ';'\n);\n\nSELECT 1;\n")).toEqual([
    "CREATE TABLE a (\n\n  x text DEFAULT ';'\n)",
    "SELECT 1",
  ]);
});

test("the body of a function is no end of a statement", () => {
  const body = "CREATE FUNCTION f() AS $$\nBEGIN\n  x := 1;\nEND;\n$$ LANGUAGE plpgsql";
  expect(splitStatements(`SELECT 1;\n${body};\nSELECT $$;$$;\n`)).toEqual(["SELECT 1", body, "SELECT $$;$$"]);
});
