import { createHash } from "node:crypto";

import type { Logger } from "@roost/kit";
import { sql } from "kysely";

import type { Db } from "./database.ts";
import { migrations as allMigrations } from "./migrations.generated.ts";

export interface Migration {
  readonly number: number;
  readonly name: string;
  readonly sql: string;
}

/** The tables cannot be brought to the form this version needs. Nothing was changed. */
export class MigrationError extends Error {
  override readonly name = "MigrationError";
}

/** Key of the advisory lock that lets one of several starting control planes migrate ("roost" in ASCII) */
const migrationLock = 0x726f6f7374;

export function checksumOf(migration: Migration): string {
  return createHash("sha256").update(migration.sql).digest("hex");
}

/**
 * Applies what is missing, all in one transaction. Refuses when an applied migration was edited since (the tables are
 * then not what the files say) and when the database is newer than this program.
 */
export async function migrate(
  db: Db,
  options: { readonly isExclusive: boolean; readonly log: Logger; readonly migrations?: readonly Migration[] | undefined },
): Promise<void> {
  const migrations = options.migrations ?? allMigrations;
  await db.transaction().execute(async (transaction) => {
    if (!options.isExclusive) await sql`SELECT pg_advisory_xact_lock(${migrationLock}::bigint)`.execute(transaction);
    await sql`CREATE TABLE IF NOT EXISTS migration (
      number integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, time_applied timestamptz NOT NULL
    )`.execute(transaction);
    const applied = await transaction.selectFrom("migration").selectAll().orderBy("number").execute();
    for (const row of applied) {
      const known = migrations.find((migration) => migration.number === row.number);
      if (known === undefined) {
        throw new MigrationError(
          `the database was made by a newer version (migration ${row.number}, ${row.name}); use that or a newer one`,
        );
      }
      if (checksumOf(known) !== row.checksum) {
        throw new MigrationError(
          `migration ${row.number} (${row.name}) was edited after it was applied; undo the edit and add a new migration`,
        );
      }
    }
    const done = new Set(applied.map((row) => row.number));
    for (const migration of migrations) {
      if (done.has(migration.number)) continue;
      for (const statement of splitStatements(migration.sql)) await sql.raw(statement).execute(transaction);
      await transaction
        .insertInto("migration")
        .values({ number: migration.number, name: migration.name, checksum: checksumOf(migration), time_applied: new Date() })
        .execute();
      options.log.info({ migration: migration.number, name: migration.name }, "migration applied");
    }
  });
}

/** Statements end with `;` at the end of a line, but not inside a body between `$$`. */
export function splitStatements(text: string): string[] {
  const statements: string[] = [];
  let statement = "";
  let isInBody = false;
  for (const line of text.replaceAll(/^\s*--.*$/gm, "").split("\n")) {
    statement += `${line}\n`;
    if (line.split("$$").length % 2 === 0) isInBody = !isInBody;
    if (isInBody || !line.trimEnd().endsWith(";")) continue;
    statements.push(statement.trim().slice(0, -1));
    statement = "";
  }
  return [...statements, statement.trim()].filter((each) => each !== "");
}
