import type { PGlite } from "@electric-sql/pglite";
import { Kysely, type DatabaseConnection, type Dialect, type Driver } from "kysely";

import type { Database } from "../db/database.ts";
import { PgliteDialect } from "../db/pglite-dialect.ts";
import type { Tables } from "../db/schema.ts";
import type { Life } from "./life.ts";

/** One database that many simulated processes share. It outlives them all. */
export class SharedDatabase {
  readonly #dialect: PgliteDialect;
  readonly #driver: Driver;

  constructor(pglite: PGlite) {
    this.#dialect = new PgliteDialect(pglite);
    this.#driver = this.#dialect.createDriver();
  }

  /** As one process has it: when that dies, what it has not committed is undone, and nothing of it gets through any more. */
  openFor(life: Life): Database {
    const driver = this.#driver;
    const connections = new WeakMap<DatabaseConnection, DatabaseConnection>();
    const wrap = (connection: DatabaseConnection): DatabaseConnection => {
      const wrapped: DatabaseConnection = {
        executeQuery: async (query) => life.query(async () => connection.executeQuery(query)),
        streamQuery: (query, size) => connection.streamQuery(query, size),
      };
      connections.set(wrapped, connection);
      return wrapped;
    };
    const unwrap = (connection: DatabaseConnection) => connections.get(connection) ?? connection;
    const faulty: Driver = {
      init: async () => undefined,
      acquireConnection: async () => wrap(await driver.acquireConnection()),
      beginTransaction: async (connection, settings) => {
        try {
          await life.query(async () => driver.beginTransaction(unwrap(connection), settings));
        } catch (error) {
          await driver.rollbackTransaction(unwrap(connection)); // it may have begun, and this one connection is everybody's
          throw error;
        }
      },
      commitTransaction: async (connection) => life.query(async () => driver.commitTransaction(unwrap(connection))),
      rollbackTransaction: async (connection) => driver.rollbackTransaction(unwrap(connection)), // the server sees that the client is gone
      releaseConnection: async (connection) => driver.releaseConnection(unwrap(connection)),
      destroy: async () => undefined,
    };
    const base = this.#dialect;
    const dialect: Dialect = {
      createDriver: () => faulty,
      createQueryCompiler: () => base.createQueryCompiler(),
      createAdapter: () => base.createAdapter(),
      createIntrospector: (db) => base.createIntrospector(db),
    };
    const close = async () => undefined;
    return {
      db: new Kysely<Tables>({ dialect }),
      isExclusive: false,
      connections: () => undefined,
      clockAheadMs: async () => undefined,
      ping: close,
      close,
      [Symbol.asyncDispose]: close,
    };
  }
}
