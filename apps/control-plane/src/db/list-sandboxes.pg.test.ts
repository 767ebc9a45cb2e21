import { sql } from "kysely";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { firstTeam } from "../testing/first-team.ts";
import { plainSandbox } from "../testing/plain-sandbox.ts";
import { whyNoPostgres } from "../testing/postgres-binaries.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import type { Database, Db } from "./database.ts";
import { listPresent, listSandboxes } from "./list-sandboxes.ts";
import { insertSandboxes } from "./sandboxes.ts";

/** What a page of many sandboxes costs, in rows that PostgreSQL reads. */

const why = whyNoPostgres();
const count = 10_000;
const limit = 100;
const begin = Date.parse("2026-03-01T00:00:00Z");
/** When the sandbox of a number was made and started; there are ten of each instant */
const timeOf = (number: number) => new Date(begin + Math.floor(number / 10));
const idOf = (number: number) => `i${String(number).padStart(8, "0")}`;

describe.skipIf(why !== undefined)(`pages of ${count} sandboxes on PostgreSQL${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  let database: Database;
  beforeAll(async () => {
    database = await openTestDatabase();
    const { db } = database;
    for (let start = 0; start < count; start += 1_000) {
      const added = Array.from({ length: 1_000 }, (_, index) => ({
        ...plainSandbox,
        id: idOf(start + index),
        hostId: "h",
        timeCreated: timeOf(start + index),
      }));
      await insertSandboxes(db, added);
    }
    await db
      .updateTable("sandbox")
      .set((row) => ({ state: "running", generation: 1, time_started: row.ref("time_created") }))
      .execute();
    await sql`ANALYZE sandbox`.execute(db);
  }, 120_000);
  afterAll(async () => database?.close());

  /** How many rows of the table are read by what `ask` asks. */
  const rowsRead = async (ask: (db: Db) => Promise<readonly unknown[]>) =>
    database.db.transaction().execute(async (transaction) => {
      const before = await rowsReadSoFar(transaction);
      expect(await ask(transaction)).toHaveLength(limit);
      return (await rowsReadSoFar(transaction)) - before;
    });
  const middle = count / 2 + 5;
  const last = { id: idOf(middle), timeCreated: timeOf(middle), timeStarted: timeOf(middle) };

  test("a page in the middle reads as many as the first one: those that it shows", async () => {
    const page = { teamId: firstTeam, limit };
    for (const after of [undefined, last]) {
      const query = { ...page, ...(after === undefined ? {} : { after }) };
      expect(await rowsRead(async (db) => listSandboxes(db, query))).toBeLessThan(3 * limit);
      for (const order of ["asc", "desc"] as const)
        expect(await rowsRead(async (db) => listPresent(db, { ...query, order }, timeOf(count)))).toBeLessThan(3 * limit);
    }
  });

  test("it begins after the last of the page before, among those of the same instant too", async () => {
    const ids = async (rows: Promise<readonly { readonly id: string }[]>) => (await rows).map(({ id }) => id);
    const query = { teamId: firstTeam, limit: 12, after: last };
    const down = Array.from({ length: 12 }, (_, index) => idOf(middle - 1 - index));
    expect(await ids(listSandboxes(database.db, query))).toEqual(down);
    expect(await ids(listPresent(database.db, { ...query, order: "desc" }, timeOf(count)))).toEqual(down);
    const up = Array.from({ length: 12 }, (_, index) => idOf(middle + 1 + index));
    expect(await ids(listPresent(database.db, { ...query, order: "asc" }, timeOf(count)))).toEqual(up);
  });
});

/** Of the table, by this connection. */
async function rowsReadSoFar(db: Db): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    SELECT seq_tup_read + idx_tup_fetch AS count FROM pg_stat_xact_user_tables WHERE relname = 'sandbox'`.execute(db);
  return rows[0]?.count ?? 0;
}
