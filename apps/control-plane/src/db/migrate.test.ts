import { silentLogger } from "@roost/kit";
import { sql } from "kysely";
import { afterAll, beforeAll, expect, test } from "vitest";

import { makeMigrationsModule, makeOpenApi, migrationsModule, openApiFile } from "../generate.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import type { Database } from "./database.ts";
import { migrate, MigrationError, splitStatements } from "./migrate.ts";
import { migrations } from "./migrations.generated.ts";
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

test("MigrationError is what operators see", async () => {
  await expect(migrate(database.db, { ...options, migrations: [] })).rejects.toBeInstanceOf(MigrationError);
});

test("statements are split at the end of lines, comments dropped", () => {
  expect(splitStatements("-- head\nCREATE TABLE a (\n  -- column; with semicolon\n  x text DEFAULT ';'\n);\n\nSELECT 1;\n")).toEqual([
    "CREATE TABLE a (\n\n  x text DEFAULT ';'\n)",
    "SELECT 1",
  ]);
});
