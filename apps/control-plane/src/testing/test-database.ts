import { silentLogger } from "@roost/kit";
import { inject } from "vitest";

import { openDatabase, type Database } from "../db/database.ts";
import type { Migration } from "../db/migrate.ts";
import { emptyDatabase } from "./pglite-dump.ts";
import { databasesOn } from "./postgres.ts";

/**
 * A database of the caller's own: in memory, or on the PostgreSQL server of the run where it has one (project `pg`), so
 * that the same tests show that the platform behaves the same on both. `migrations`: as a version leaves it that knows no others
 */
export async function openTestDatabase(migrations?: readonly Migration[]): Promise<Database> {
  const server = inject("postgres");
  if (server === undefined) return openDatabase({ kind: "memory", dump: await emptyDatabase() }, silentLogger, migrations);
  const databases = databasesOn(server.url);
  const url = await databases.createDatabase(migrations === undefined ? server.migrated : undefined);
  const database = await openDatabase({ kind: "server", url }, silentLogger, migrations);
  const close = async () => {
    await database.close();
    await databases[Symbol.asyncDispose]();
  };
  return { ...database, close, [Symbol.asyncDispose]: close };
}
