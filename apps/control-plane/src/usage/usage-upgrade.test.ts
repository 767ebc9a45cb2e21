import { sandboxStates, type SandboxState } from "@roost/contract";
import { silentLogger } from "@roost/kit";
import { sql } from "kysely";
import { afterAll, beforeAll, expect, test } from "vitest";

import type { Database, Db } from "../db/database.ts";
import { migrate } from "../db/migrate.ts";
import { migrations } from "../db/migrations.generated.ts";
import { markStopped } from "../db/sandboxes.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { Usage } from "./usage.ts";

/** Of the version before there was usage */
const lastBefore = 10;
const options = { isExclusive: true, log: silentLogger };
const begin = new Date("2026-03-10T00:00:00Z").getTime();
/** So many s after the begin */
const at = (sec: number) => new Date(begin + sec * 1_000);

/** A sandbox as the version before recorded it; times in s. */
interface Recorded {
  readonly state: SandboxState;
  readonly started?: number;
  readonly paused?: number;
  readonly updated: number;
  readonly isBuild?: boolean;
}

const recorded = {
  icreating: { state: "creating", updated: 1 },
  irunning: { state: "running", started: 10, updated: 11 },
  // of a host that did not tell when it started
  iunstarted: { state: "running", updated: 12 },
  ipausing: { state: "pausing", started: 10, updated: 50 },
  isnapshotting: { state: "snapshotting", started: 10, updated: 50 },
  // of a paused one; what it was before is not recorded, its pause is
  isnapshottingpaused: { state: "snapshotting", started: 10, paused: 40, updated: 50 },
  ipaused: { state: "paused", started: 10, paused: 40, updated: 41 },
  ipausedlongago: { state: "paused", updated: 42 },
  iresuming: { state: "resuming", started: 10, paused: 40, updated: 50 },
  istopping: { state: "stopping", started: 10, updated: 50 },
  istopped: { state: "stopped", started: 10, updated: 50 },
  ifailed: { state: "failed", started: 10, updated: 50 },
  ibuild: { state: "running", started: 20, updated: 21, isBuild: true },
} as const satisfies Record<string, Recorded>;
type Id = keyof typeof recorded;

let database: Database;
let db: Db;
beforeAll(async () => {
  database = await openTestDatabase(migrations.filter(({ number }) => number <= lastBefore));
  ({ db } = database);
  for (const [id, sandbox] of Object.entries<Recorded>(recorded)) await record(id, sandbox);
  await migrate(db, options);
}, 60_000);
afterAll(async () => database.close());

async function record(id: string, { state, started, paused, updated, isBuild = false }: Recorded): Promise<void> {
  const time = (sec: number | undefined) => (sec === undefined ? null : at(sec));
  await sql`
    INSERT INTO sandbox (id, team_id, host_id, template, vcpus, memory_mib, disk_size_mib, timeout_sec, access_token, state, generation, failure_reason,
                         for_build_id, time_created, time_started, time_paused, time_last_active, time_stopped, time_state_updated)
    VALUES (${id}, 'default', 'h', 'base', 2, 512, 1000, 60, ${state === "stopped" ? "" : "t"}, ${state}, 1, ${state === "failed" ? "why" : null},
            ${isBuild ? "00000000-0000-4000-8000-000000000001" : null}, ${at(0)}, ${time(started)}, ${time(paused)}, ${at(0)},
            ${state === "stopped" ? time(updated) : null}, ${at(updated)})`.execute(db);
}

/** As `state from–to`, in s. */
async function intervalsOf(id: Id): Promise<string[]> {
  const rows = await db.selectFrom("sandbox_interval").selectAll().where("sandbox_id", "=", id).orderBy("time_started").execute();
  const secOf = (time: Date) => (time.getTime() - begin) / 1_000;
  return rows.map((row) => `${row.state} ${secOf(row.time_started)}–${row.time_ended === null ? "" : secOf(row.time_ended)}`);
}

/** A host tells of it again. */
async function tell(id: Id, { state, started, paused, updated }: Recorded): Promise<void> {
  const times = {
    time_started: started === undefined ? null : at(started),
    time_paused: paused === undefined ? null : at(paused),
    time_state_updated: at(updated),
  };
  await db
    .updateTable("sandbox")
    .set({ state, ...times })
    .where("id", "=", id)
    .execute();
}

test("every state there was before is among these", () => {
  expect(new Set(Object.values(recorded).map(({ state }) => state))).toEqual(new Set(sandboxStates));
});

test("what ran or was paused when the version came counts from when that began; what had ended, or was yet to begin, does not", async () => {
  const known = Object.fromEntries(await Promise.all((Object.keys(recorded) as Id[]).map(async (id) => [id, await intervalsOf(id)])));
  expect(known).toEqual({
    icreating: [],
    irunning: ["running 10–"],
    iunstarted: ["running 12–"],
    ipausing: ["running 10–"],
    isnapshotting: ["running 10–"],
    isnapshottingpaused: ["running 10–"],
    ipaused: ["paused 40–"],
    ipausedlongago: ["paused 42–"],
    iresuming: [],
    istopping: [],
    istopped: [],
    ifailed: [],
    ibuild: ["running 20–"],
  });
  const build = await db.selectFrom("sandbox_interval").select("is_build").where("sandbox_id", "=", "ibuild").executeTakeFirst();
  expect(build).toEqual({ is_build: true });
});

test("what was under way ends as the truth, as far as it is known", async () => {
  await tell("irunning", { state: "paused", started: 10, paused: 60, updated: 61 });
  await tell("ipausing", { state: "paused", started: 10, paused: 60, updated: 61 });
  await tell("isnapshotting", { state: "running", started: 10, updated: 61 });
  await tell("isnapshottingpaused", { state: "paused", started: 10, paused: 40, updated: 61 });
  await tell("ipaused", { state: "running", started: 60, updated: 61 });
  await tell("iresuming", { state: "running", started: 60, updated: 61 });
  await tell("icreating", { state: "running", started: 60, updated: 61 });
  await markStopped(db, "istopping", "deleted", at(61));
  await markStopped(db, "ibuild", "done", at(61));
  expect(await intervalsOf("irunning")).toEqual(["running 10–60", "paused 60–"]);
  expect(await intervalsOf("ipausing")).toEqual(["running 10–60", "paused 60–"]);
  expect(await intervalsOf("isnapshotting")).toEqual(["running 10–"]);
  expect(await intervalsOf("isnapshottingpaused")).toEqual(["running 10–40", "paused 40–"]);
  expect(await intervalsOf("ipaused")).toEqual(["paused 40–60", "running 60–"]);
  expect(await intervalsOf("iresuming")).toEqual(["running 60–"]);
  expect(await intervalsOf("icreating")).toEqual(["running 60–"]);
  expect(await intervalsOf("istopping")).toEqual([]);
  expect(await intervalsOf("ibuild")).toEqual(["running 20–61"]);
  const now = await new Usage(db, () => at(100)).stats("default", { range: "1h" });
  expect(now.now).toMatchObject({ running: 5, paused: 4 });
});
