import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { newId, recipeSchema } from "@roost/contract";
import { hour, silentLogger } from "@roost/kit";
import { sql } from "kysely";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import { listRemovals } from "../db/built-templates.ts";
import { insertChannel } from "../db/channels.ts";
import type { Database } from "../db/database.ts";
import { markTeamDeleted } from "../db/members.ts";
import { insertSandbox, markStopped } from "../db/sandboxes.ts";
import { ownedBy } from "../db/owned-id.ts";
import { finishSnapshot, insertSnapshot } from "../db/snapshots.ts";
import { HostLink } from "../hosts/host-link.ts";
import { Hosts } from "../hosts/hosts.ts";
import { createTestTeam, userCaller } from "../testing/callers.ts";
import { makeReady } from "../testing/ended-build.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { plainSandbox } from "../testing/plain-sandbox.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { createTemplateServices, type TemplateServices } from "../templates/template-services.ts";
import { TemplateUpkeep } from "../templates/template-upkeep.ts";

let database: Database;
let host: FakeHost;
let dir: string;
let services: TemplateServices;
let round: (afterMs?: number) => Promise<void>;
let gone: string;
let other: string;

beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  const { db } = database;
  for (const table of ["sandbox", "snapshot", "built_template", "template_removal", "channel", "membership"] as const) {
    await db.deleteFrom(table).execute();
  }
  host = new FakeHost("host-1", () => 1);
  dir = await mkdtemp(join(tmpdir(), "roost-team-removal-"));
  const hosts = new Hosts([new HostLink(host, silentLogger)]);
  services = createTemplateServices({ db, hosts, dir, buildFilesMib: 1, pokeBuilds: () => undefined, log: silentLogger });
  round = async (afterMs = 0) =>
    new TemplateUpkeep({ db, hosts, files: services.files, log: silentLogger, now: () => new Date(Date.now() + afterMs) }).round();
  gone = await createTestTeam(db);
  other = await createTestTeam(db);
});
afterEach(async () => rm(dir, { recursive: true }));

const requestBuild = async (teamId: string) => {
  const { build } = await services.builds.request({ teamId, name: "mine", tags: ["v1"], vcpus: 1, memoryMib: 512 });
  await services.builds.start(ownedBy(teamId, build.id), recipeSchema.parse({ from: { template: "base" } }));
};
/** A template, a snapshot, a channel and a member: the same for each team. */
async function furnish(teamId: string): Promise<void> {
  const { db } = database;
  const now = new Date();
  await requestBuild(teamId);
  await makeReady(db, host);
  const id = crypto.randomUUID();
  const hostTemplate = `snapshot-${id}`;
  const snapshot = {
    id,
    teamId,
    name: "saved",
    hostId: "host-1",
    hostTemplate,
    hasMemory: true,
    sourceSandboxId: "isource",
    timeCreated: now,
  };
  expect(await insertSnapshot(db, snapshot, { replace: false, waitMsMax: 1 })).toBeUndefined();
  const made = { digest: "sha256:0", hasMemory: true, vcpus: 1, memoryMib: 512, diskSizeMib: 1024, sizeBytes: 1 };
  await finishSnapshot(db, id, made, now, async () => undefined);
  const channel = { kind: "webhook", config: Buffer.from("sealed"), destination: "https://example.org", kinds: [] } as const;
  await insertChannel(db, { id: newId("c"), teamId, name: "hook", ...channel, platformEvents: false, isEnabled: true, now });
  await userCaller(db, "member", { teamId });
}
async function insertRunning(teamId: string, templateSnapshotId: string | null): Promise<string> {
  const sizes = { vcpus: 1, memoryMib: 512, diskSizeMib: 1024, timeoutSec: 0, checkpointIntervalSec: 0 };
  const more = { hostId: "host-1", template: "base", metadata: {}, accessToken: "", autoResume: false, timeCreated: new Date() };
  const { id } = await insertSandbox(database.db, { ...plainSandbox, ...sizes, ...more, id: newId("i"), teamId, templateSnapshotId });
  return id;
}
async function leftOf(teamId: string): Promise<Record<string, number>> {
  const left: Record<string, number> = {};
  for (const table of ["built_template", "build", "snapshot", "channel", "membership"] as const) {
    left[table] = (await database.db.selectFrom(table).select("team_id").where("team_id", "=", teamId).execute()).length;
  }
  return left;
}
const all = { built_template: 1, build: 1, snapshot: 1, channel: 1, membership: 1 };
const none = { built_template: 0, build: 0, snapshot: 0, channel: 0, membership: 0 };
const deleteTeam = () => markTeamDeleted(database.db, gone, new Date());

test("what a deleted team has left goes, here and on hosts; another team's stays", async () => {
  await furnish(gone);
  await furnish(other);
  await round(2 * hour);
  expect([await leftOf(gone), await leftOf(other)], "of teams that are there").toEqual([all, all]);

  await deleteTeam();
  await round();
  expect(await leftOf(gone), "that it was deleted is still to be sent").toEqual({ ...none, channel: 1 });
  await round(2 * hour);
  expect([await leftOf(gone), await leftOf(other)]).toEqual([none, all]);
  expect([...host.images.templates.keys()].filter((name) => name.startsWith("build-"))).toHaveLength(1);
  expect(await listRemovals(database.db, 10)).toEqual([]);
});

test("a build that goes on is cancelled first, and a sandbox that came at the last moment is ended", async () => {
  const { db } = database;
  await furnish(gone);
  await requestBuild(gone);
  const snapshot = await db.selectFrom("snapshot").select("id").where("team_id", "=", gone).executeTakeFirstOrThrow();
  const id = await insertRunning(gone, snapshot.id);
  const foreign = await insertRunning(other, null);
  await deleteTeam();
  await round(2 * hour);
  expect(await leftOf(gone)).toMatchObject({ built_template: 1, snapshot: 1 });
  const requested = async (sandboxId: string) =>
    (await db.selectFrom("sandbox").select("time_delete_requested").where("id", "=", sandboxId).executeTakeFirstOrThrow())
      .time_delete_requested;
  expect(await requested(id)).not.toBeNull();
  expect(await requested(foreign)).toBeNull();

  await markStopped(db, id, "deleted", new Date());
  await round(2 * hour);
  expect(await leftOf(gone)).toEqual(none);
});

test("where a step fails, the others are done, and the next round goes on from there", async () => {
  const { db } = database;
  await furnish(gone);
  await furnish(other);
  await deleteTeam();
  await markTeamDeleted(db, other, new Date());
  await sql`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$`.execute(db);
  await sql`CREATE TRIGGER refuse BEFORE DELETE ON snapshot FOR EACH ROW WHEN (OLD.team_id = ${sql.lit(gone)}) EXECUTE FUNCTION refuse()`.execute(
    db,
  );
  try {
    await round(2 * hour);
  } finally {
    await sql`DROP FUNCTION refuse() CASCADE`.execute(db);
  }
  expect([await leftOf(gone), await leftOf(other)]).toEqual([{ ...none, snapshot: 1, channel: 1 }, none]);
  await round(2 * hour);
  expect(await leftOf(gone)).toEqual(none);
});
