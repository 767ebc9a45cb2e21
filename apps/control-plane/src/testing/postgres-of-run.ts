import { must } from "@roost/kit";
import { inject } from "vitest";

import { databasesOn, type TestPostgres } from "./postgres.ts";

/** What the set-up of a run says of the PostgreSQL server that it started. */
export interface PostgresOfRun {
  /** of the server's own database */
  readonly url: string;
  /** name of a database with all tables, to copy */
  readonly migrated: string;
}

declare module "vitest" {
  interface ProvidedContext {
    /** undefined: tests of this project have no server */
    postgres?: PostgresOfRun;
  }
}

/** Databases on the server of the run, which disposing drops: for tests of the project `pg`. */
export function postgresOfRun(): TestPostgres {
  return databasesOn(must(inject("postgres"), "the project pg starts a PostgreSQL server").url);
}
