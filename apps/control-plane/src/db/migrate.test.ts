import { PGlite } from "@electric-sql/pglite";
import { silentLogger } from "@roost/kit";
import { Kysely, sql } from "kysely";
import { afterAll, beforeAll, expect, test } from "vitest";

import { makeMigrationsModule, makeOpenApi, migrationsModule, openApiFile } from "../generate.ts";
import { emptyDatabase, openTestDatabase } from "../testing/test-database.ts";
import type { Database } from "./database.ts";
import { listTemplates } from "./hosts.ts";
import { migrate, MigrationError, splitStatements } from "./migrate.ts";
import { migrations } from "./migrations.generated.ts";
import { PgliteDialect } from "./pglite-dialect.ts";
import { findSandbox } from "./sandboxes.ts";
import type { Tables } from "./schema.ts";
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
  const pglite = await PGlite.create({ loadDataDir: await emptyDatabase() });
  const db = new Kysely<Tables>({ dialect: new PgliteDialect(pglite) });
  try {
    await migrate(db, { ...options, migrations: migrations.slice(0, 1) });
    await sql`INSERT INTO host VALUES ('h', '{}', now(), now())`.execute(db);
    await sql`INSERT INTO template VALUES ('h', 'base', 'sha256:0', 10)`.execute(db);
    await sql`INSERT INTO sandbox (id, host_id, template, vcpus, memory_mib, disk_size_mib, timeout_sec, access_token, state, generation,
      time_created, time_last_active, time_state_updated) VALUES ('iold', 'h', 'base', 1, 512, 10, 60, 't', 'running', 7, now(), now(), now())`.execute(
      db,
    );
    await migrate(db, options);
    expect(await findSandbox(db, "iold")).toMatchObject({
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
    await db.destroy();
    await pglite.close();
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
