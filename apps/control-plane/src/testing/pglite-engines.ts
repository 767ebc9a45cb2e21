import { PGlite } from "@electric-sql/pglite";

import { pgliteParsers } from "../db/database.ts";
import { emptyDatabase } from "./pglite-dump.ts";

/** A migrated embedded database, and what it was like before anybody used it. */
export interface MigratedEngine {
  readonly pglite: PGlite;
  readonly schema: string;
  readonly seeds: readonly Seed[];
  readonly sequences: readonly { readonly name: string; readonly last: number | null }[];
}

/** Rows that migrations leave in a table. */
interface Seed {
  readonly table: string;
  readonly columns: string;
  readonly rows: string;
}

/** Everything that statements can make or change, less what is in tables: one that a test left different is not used again */
const schemaQuery = `SELECT md5(string_agg(item, ',' ORDER BY item)) AS schema FROM (
  SELECT 'class ' || relname || relkind::text || relnatts AS item FROM pg_class WHERE relnamespace = 'public'::regnamespace
  UNION ALL SELECT 'trigger ' || tgname || tgenabled::text || tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL SELECT 'function ' || proname || md5(prosrc) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
  UNION ALL SELECT 'constraint ' || conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
  UNION ALL SELECT 'column ' || attrelid::regclass::text || attname || atttypid || attnotnull::text
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'public'::regnamespace AND attnum > 0
) AS items`;
const tablesQuery = "SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname";

/** An engine with a database without tables. */
export async function newEngine(): Promise<PGlite> {
  return PGlite.create({ parsers: pgliteParsers, loadDataDir: await emptyDatabase() });
}

/** Looks at a database that was just migrated. */
export async function asMigrated(pglite: PGlite): Promise<MigratedEngine> {
  const seeds: Seed[] = [];
  for (const table of await tablesOf(pglite)) {
    const columns = await pglite.query<{ columns: string }>(
      `SELECT string_agg(quote_ident(attname), ',' ORDER BY attnum) AS columns FROM pg_attribute
        WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''`,
      [quoted(table)],
    );
    const rows = await pglite.query<{ rows: string | null }>(`SELECT json_agg(row)::text AS rows FROM ${quoted(table)} row`);
    const [{ rows: text } = { rows: null }] = rows.rows;
    if (text !== null) seeds.push({ table, columns: columns.rows[0]?.columns ?? "", rows: text });
  }
  const { rows: sequences } = await pglite.query<{ name: string; last: number | null }>(
    "SELECT quote_ident(sequencename) AS name, last_value AS last FROM pg_sequences WHERE schemaname = 'public'",
  );
  return { pglite, schema: await schemaOf(pglite), seeds, sequences };
}

/** Makes it as it was before anybody used it; false when that can't be done so. */
export async function reset({ pglite, schema, seeds, sequences }: MigratedEngine): Promise<boolean> {
  if ((await schemaOf(pglite)) !== schema) return false;
  const tables = await tablesOf(pglite);
  await pglite.transaction(async (transaction) => {
    await transaction.exec("SET LOCAL session_replication_role = replica"); // no trigger has a say in it
    await transaction.exec(`TRUNCATE ${tables.map(quoted).join(",")} RESTART IDENTITY`);
    for (const { table, columns, rows } of seeds) {
      const insert = `INSERT INTO ${quoted(table)} (${columns}) OVERRIDING SYSTEM VALUE SELECT ${columns} FROM json_populate_recordset(NULL::${quoted(table)}, $1::json)`;
      await transaction.query(insert, [rows]);
    }
    for (const { name, last } of sequences) if (last !== null) await transaction.query("SELECT setval($1::regclass, $2)", [name, last]);
  });
  return true;
}

async function tablesOf(pglite: PGlite): Promise<string[]> {
  return (await pglite.query<{ name: string }>(tablesQuery)).rows.map(({ name }) => name);
}

async function schemaOf(pglite: PGlite): Promise<string> {
  return (await pglite.query<{ schema: string }>(schemaQuery)).rows[0]?.schema ?? "";
}

function quoted(name: string): string {
  return `"${name}"`;
}
