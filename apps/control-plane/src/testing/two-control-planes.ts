import { silentLogger } from "@roost/kit";

import { openDatabase, type Database } from "../db/database.ts";
import { startPostgres } from "./postgres.ts";

/** One database on a PostgreSQL server of its own, as two control planes see it. */
export interface TwoControlPlanes extends AsyncDisposable {
  readonly one: Database;
  readonly two: Database;
}

export async function openTwoControlPlanes(): Promise<TwoControlPlanes> {
  const postgres = await startPostgres();
  const url = await postgres.createDatabase();
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
