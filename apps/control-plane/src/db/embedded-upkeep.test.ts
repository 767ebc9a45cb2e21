import { newSandboxId } from "@roost/contract";
import { sql } from "kysely";
import { afterAll, beforeAll, expect, test } from "vitest";

import { plainSandbox } from "../testing/plain-sandbox.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import type { Database } from "./database.ts";
import { tidyTables } from "./embedded-upkeep.ts";
import { insertSandboxes } from "./sandboxes.ts";

let database: Database;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());

async function fill(count: number): Promise<void> {
  const rows = Array.from({ length: count }, (_, index) => ({
    ...plainSandbox,
    id: newSandboxId(),
    hostId: "host-1",
    timeCreated: new Date(index),
  }));
  for (let start = 0; start < count; start += 500) await insertSandboxes(database.db, rows.slice(start, start + 500));
}

const sizeOf = async () => {
  const { rows } = await sql<{ size: number }>`SELECT pg_relation_size('sandbox') AS size`.execute(database.db);
  return rows[0]?.size ?? 0;
};
/** Counts of changes are else written once a second. */
const countNow = async () => sql`SELECT pg_stat_force_next_flush()`.execute(database.db);
const touchAll = async (round: number) => {
  await database.db
    .updateTable("sandbox")
    .set({ metadata: JSON.stringify({ round }) })
    .execute();
  await countNow();
};

test("a table that is changed over and over does not grow, and lists find their index", async () => {
  await fill(2_000);
  await countNow();
  expect(await tidyTables(database.db)).toContain("sandbox");
  expect(await tidyTables(database.db)).toEqual([]);
  await touchAll(0);
  await tidyTables(database.db);
  const size = await sizeOf();
  for (let round = 1; round <= 5; round += 1) {
    await touchAll(round);
    expect(await tidyTables(database.db)).toContain("sandbox");
  }
  expect(await sizeOf()).toBeLessThan(1.5 * size); // without, it would be six times as large
  const { rows } = await sql<Record<string, string>>`
    EXPLAIN SELECT * FROM sandbox WHERE state <> 'stopped' AND team_id = 'default' AND for_build_id IS NULL
      ORDER BY time_created DESC, id DESC LIMIT 101`.execute(database.db);
  const plan = rows.flatMap(Object.values).join("\n");
  expect(plan).toContain("using sandbox_newest");
  expect(plan).not.toContain("Sort");
});
