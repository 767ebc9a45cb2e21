import { silentLogger } from "@roost/kit";
import { inject } from "vitest";

import { openDatabase, type Database } from "../db/database.ts";
import { postgresOfRun } from "./postgres-of-run.ts";

/** One database on the PostgreSQL server of the run, as two control planes see it. */
export interface TwoControlPlanes extends AsyncDisposable {
  readonly one: Database;
  readonly two: Database;
}

export async function openTwoControlPlanes(): Promise<TwoControlPlanes> {
  const postgres = postgresOfRun();
  const url = await postgres.createDatabase(inject("postgres")?.migrated);
  const one = await openDatabase({ kind: "server", url }, silentLogger);
  const two = await openDatabase({ kind: "server", url }, silentLogger);
  return {
    one,
    two,
    [Symbol.asyncDispose]: async () => {
      await Promise.all([one.close(), two.close()]);
      await postgres[Symbol.asyncDispose]();
    },
  };
}
