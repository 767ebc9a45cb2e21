import { randomUUID } from "node:crypto";

import { afterAll, beforeAll, expect, test } from "vitest";

import type { Database, Db } from "../db/database.ts";
import { listEvents } from "../db/events.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { claimBuild, finishBuild, requestCancel } from "./build-store.ts";

let database: Database;
let db: Db;
beforeAll(async () => {
  database = await openTestDatabase();
  db = database.db;
  const template = { id: "t1", team_id: firstTeam, name: "one", is_public: false, time_created: at(0), time_updated: at(0) };
  await db.insertInto("built_template").values(template).execute();
}, 60_000);
afterAll(async () => database.close());

const at = (minute: number) => new Date(Date.UTC(2026, 0, 1, 0, minute));

async function insert(): Promise<string> {
  const id = randomUUID();
  const values = {
    id,
    team_id: firstTeam,
    template_id: "t1",
    state: "waiting",
    tags: '["a","b"]',
    recipe: "{}",
    vcpus: 1,
    memory_mib: 512,
  } as const;
  await db
    .insertInto("build")
    .values({ ...values, time_created: at(0) })
    .execute();
  return id;
}
const claim = async (claimedBy: string, minute: number) => claimBuild(db, { claimedBy, now: at(minute), claimEnds: at(minute + 1) });
const toldOf = async (id: string) => {
  const rows = await listEvents(db, { audience: { teamId: firstTeam, isAdmin: false }, limit: 100 });
  return rows
    .filter((row) => row.subject_id === id)
    .map(({ kind, message, template, detail }) => ({ kind, message, template, detail }))
    .reverse();
};

test("a build is told of when it starts, once whoever goes on with it, and when it ends, with why", async () => {
  const id = await insert();
  await claim("one", 1);
  const taken = await claim("two", 5); // the first one has gone
  if (taken === undefined) throw new Error("it can be taken over");
  const failure = { message: "the command ended with 1", step: "3" };
  await finishBuild(db, taken, { state: "failed", failure }, at(6));
  expect(await finishBuild(db, taken, { state: "failed", failure }, at(6)), "only once").toBeUndefined();
  expect(await toldOf(id)).toEqual([
    { kind: "build.started", message: 'build of template "one": started', template: "one", detail: { template_id: "t1", tags: "a,b" } },
    {
      kind: "build.failed",
      message: 'build of template "one": failed: the command ended with 1',
      template: "one",
      detail: { template_id: "t1", tags: "a,b", step: "3" },
    },
  ]);
});

test("one that is cancelled before it starts is told of once, however often it is asked for", async () => {
  const id = await insert();
  await requestCancel(db, own(id), at(1));
  await requestCancel(db, own(id), at(2));
  expect((await toldOf(id)).map(({ kind }) => kind)).toEqual(["build.cancelled"]);
});
