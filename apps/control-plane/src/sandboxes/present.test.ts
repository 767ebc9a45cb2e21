import { networkPolicySchema, newSandboxId, sandboxStates } from "@roost/contract";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { listPresent } from "../db/list-sandboxes.ts";
import { insertSandbox } from "../db/sandboxes.ts";
import { firstTeam } from "../testing/first-team.ts";
import { plainSandbox } from "../testing/plain-sandbox.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { presenceOf, present } from "./present.ts";

let database: Database;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());

const now = new Date();
const instant = fc.constantFrom(new Date(now.getTime() - 1), now, new Date(now.getTime() + 1));
const rows = fc.record({
  state: fc.constantFrom(...sandboxStates),
  time_expires: fc.option(instant),
  time_started: fc.option(fc.constant(now)),
  time_paused: fc.option(fc.constant(now)),
  time_delete_requested: fc.option(fc.constant(now)),
  expiry_action: fc.constantFrom("delete" as const, "pause" as const),
});

test("the list in SQL and the view of one row agree on what there is", async () => {
  const { db } = database;
  await fc.assert(
    fc.asyncProperty(rows, async (columns) => {
      const template = `t${newSandboxId()}`;
      const inserted = await insertSandbox(db, {
        ...plainSandbox,
        id: newSandboxId(),
        hostId: "host-1",
        template,
        accessToken: "",
        timeCreated: now,
        network: networkPolicySchema.parse({}),
      });
      const row = await db
        .updateTable("sandbox")
        .set({
          ...columns,
          failure_reason: columns.state === "failed" ? "x" : null,
          time_stopped: columns.state === "stopped" ? now : null,
        })
        .where("id", "=", inserted.id)
        .returningAll()
        .executeTakeFirstOrThrow();
      const seen = present(row, now);
      const presence = presenceOf(seen);
      for (const asked of ["running", "paused"] as const) {
        const found = await listPresent(db, { teamId: firstTeam, template, presence: [asked], order: "desc", limit: 1 }, now);
        expect(found.length, `${asked}: ${JSON.stringify(columns)} is seen as ${seen.state}`).toBe(presence === asked ? 1 : 0);
      }
    }),
    { numRuns: 150 },
  );
});
