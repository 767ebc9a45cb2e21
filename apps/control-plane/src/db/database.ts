import { PGlite } from "@electric-sql/pglite";
import type { Logger } from "@roost/kit";
import { Kysely, PostgresDialect, sql } from "kysely";
import pg from "pg";

import { clockAheadMs, requireSameTime } from "./clock.ts";
import { migrate, type Migration } from "./migrate.ts";
import { makeDatabaseFolder } from "./new-folder.ts";
import { PgliteDialect } from "./pglite-dialect.ts";
import { durableStartParams, DurableNodeFs } from "./pglite-filesystem.ts";
import type { Tables } from "./schema.ts";

export type Db = Kysely<Tables>;

/** Where the records are: a PostgreSQL server, a folder with an embedded one, or memory (tests). */
export type DatabaseLocation =
  | { readonly kind: "server"; readonly url: string }
  /** `cacheFolder` keeps an empty database from which new ones are copied. */
  | { readonly kind: "folder"; readonly path: string; readonly cacheFolder?: string }
  /** `engine`: one that is there, and stays */
  | { readonly kind: "memory"; readonly engine?: PGlite };

export interface Database extends AsyncDisposable {
  readonly db: Db;
  /** Whether nobody else can write to it, so that what this process is not doing, nobody does. */
  readonly isExclusive: boolean;
  /** Rejects when it does not answer. */
  ping(): Promise<void>;
  /** Connections to the server; undefined: it is embedded, and has one */
  readonly connections: () => DatabaseConnections | undefined;
  /** How far the clock of this machine is ahead of the server's, in ms; undefined: it is embedded, and has the same */
  readonly clockAheadMs: () => Promise<number | undefined>;
  close(): Promise<void>;
}

export interface DatabaseConnections {
  readonly open: number;
  readonly idle: number;
  /** Requests that wait for one */
  readonly waiting: number;
}

/** Connections to a PostgreSQL server; queries here are single-row, a few suffice */
const poolSize = 10;
/** A query that takes longer than this in `ms` is stuck: rows here are few and indexed */
const queryTimeoutMs = 10_000;
const connectTimeoutMs = 5_000;
/** A transaction in which nothing happens for this long in `ms` is one of a process that hangs, and holds locks that others wait for */
const idleTransactionTimeoutMs = 60_000;

/** int8 as number: generations and byte counts stay far below 2^53. */
const int8Oid = 20;
/** How an engine reads what a query answers */
export const pgliteParsers = { [int8Oid]: Number };

/** Opens the database and brings its tables up to date. `migrations`: others than this version's, for tests */
export async function openDatabase(location: DatabaseLocation, log: Logger, migrations?: readonly Migration[]): Promise<Database> {
  const database = location.kind === "server" ? openServer(location.url, log) : await openPglite(location, log);
  try {
    if (location.kind === "server") await requireSameTime(database.db);
    await migrate(database.db, { isExclusive: database.isExclusive, log, migrations });
    return database;
  } catch (error) {
    await database.close();
    throw error;
  }
}

function openServer(url: string, log: Logger): Database {
  const types = new pg.TypeOverrides();
  types.setTypeParser(int8Oid, Number);
  const pool = new pg.Pool({
    connectionString: url,
    max: poolSize,
    types,
    connectionTimeoutMillis: connectTimeoutMs,
    query_timeout: queryTimeoutMs,
    statement_timeout: queryTimeoutMs,
    idle_in_transaction_session_timeout: idleTransactionTimeoutMs,
    application_name: "roost",
  });
  pool.on("error", (error) => log.warn({ err: error }, "an idle database connection was lost"));
  return wrap(
    new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) }),
    false,
    async () => undefined,
    () => ({
      open: pool.totalCount,
      idle: pool.idleCount,
      waiting: pool.waitingCount,
    }),
  );
}

async function openPglite(location: Exclude<DatabaseLocation, { kind: "server" }>, log: Logger): Promise<Database> {
  if (location.kind === "memory") {
    const { engine } = location;
    const pglite = engine ?? (await PGlite.create({ parsers: pgliteParsers }));
    return overPglite(pglite, async () => (engine === undefined ? pglite.close() : undefined));
  }
  await makeDatabaseFolder(location.path, location.cacheFolder, log);
  const pglite = await PGlite.create({
    fs: new DurableNodeFs(location.path),
    startParams: [...durableStartParams],
    parsers: pgliteParsers,
  });
  return overPglite(pglite, async () => pglite.close());
}

function overPglite(pglite: PGlite, close: () => Promise<void>): Database {
  return wrap(new Kysely<Tables>({ dialect: new PgliteDialect(pglite) }), true, close);
}

function wrap(
  db: Db,
  isExclusive: boolean,
  closeEngine: () => Promise<void>,
  connections: Database["connections"] = () => undefined,
): Database {
  let closing: Promise<void> | undefined;
  const close = async () => {
    closing ??= db.destroy().then(closeEngine);
    await closing;
  };
  return {
    db,
    isExclusive,
    connections,
    clockAheadMs: async () => (isExclusive ? undefined : clockAheadMs(db)),
    ping: async () => {
      await sql`SELECT 1`.execute(db);
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}
