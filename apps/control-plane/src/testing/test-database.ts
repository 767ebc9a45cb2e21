import { silentLogger } from "@roost/kit";
import { inject } from "vitest";

import { openDatabase, type Database } from "../db/database.ts";
import type { Migration } from "../db/migrate.ts";
import { asMigrated, newEngine, reset, type MigratedEngine } from "./pglite-engines.ts";
import { databasesOn } from "./postgres.ts";

/** Engines of this process that nobody uses: making one takes longer than most tests. One is enough for most files, and each takes memory */
const idle: MigratedEngine[] = [];
const idleMax = 2;

/**
 * A database of the caller's own: in memory, or on the PostgreSQL server of the run where it has one (project `pg`), so
 * that the same tests show that the platform behaves the same on both. `migrations`: as a version leaves it that knows no others
 */
export async function openTestDatabase(migrations?: readonly Migration[]): Promise<Database> {
  const server = inject("postgres");
  if (server === undefined) return openEmbedded(migrations);
  const databases = databasesOn(server.url);
  const url = await databases.createDatabase(migrations === undefined ? server.migrated : undefined);
  const database = await openDatabase({ kind: "server", url }, silentLogger, migrations);
  const close = async () => {
    await database.close();
    await databases[Symbol.asyncDispose]();
  };
  return { ...database, close, [Symbol.asyncDispose]: close };
}

async function openEmbedded(migrations: readonly Migration[] | undefined): Promise<Database> {
  const known = migrations === undefined ? idle.pop() : undefined;
  const pglite = known?.pglite ?? (await newEngine());
  const database = await openDatabase({ kind: "memory", engine: pglite }, silentLogger, migrations);
  const migrated = known ?? (migrations === undefined ? await asMigrated(pglite) : undefined);
  let closing: Promise<void> | undefined;
  const end = async () => {
    await database.close(); // whoever still asks it something is refused from here on
    const isGood = migrated !== undefined && idle.length < idleMax && (await reset(migrated));
    if (isGood) idle.push(migrated);
    else await pglite.close();
  };
  const close = async () => {
    closing ??= end();
    await closing;
  };
  return { ...database, close, [Symbol.asyncDispose]: close };
}
