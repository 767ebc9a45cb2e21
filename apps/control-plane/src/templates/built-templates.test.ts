import { randomUUID } from "node:crypto";

import { recipeSchema } from "@roost/contract";
import { silentLogger } from "@roost/kit";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { listRemovals } from "../db/built-templates.ts";
import type { Database } from "../db/database.ts";
import { insertSandbox, markStopped } from "../db/sandboxes.ts";
import { insertSnapshot } from "../db/snapshots.ts";
import { HostLink } from "../hosts/host-link.ts";
import { Hosts } from "../hosts/hosts.ts";
import { claimOne, end, makeReady } from "../testing/ended-build.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import { plainSandbox } from "../testing/plain-sandbox.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import type { BuildRow } from "./build-store.ts";
import { Builds } from "./builds.ts";
import { BuiltTemplates } from "./built-templates.ts";
import { hostTemplateOf } from "./names.ts";

let database: Database;
let host: FakeHost;
let templates: BuiltTemplates;
let builds: Builds;
let pokes: number;
/** What happens when a build is to be cancelled */
let onCancel: () => void;

beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  for (const table of ["sandbox", "snapshot", "built_template", "template_removal"] as const) await database.db.deleteFrom(table).execute();
  host = new FakeHost("host-1", () => 1);
  const hosts = new Hosts([new HostLink(host, silentLogger)]);
  pokes = 0;
  onCancel = () => undefined;
  const { db } = database;
  templates = new BuiltTemplates({ db, hosts, log: silentLogger, onRemoval: () => (pokes += 1), onCancel: () => onCancel() });
  builds = new Builds({ db, templates, log: silentLogger, claimedBy: "test", poke: () => undefined });
});

const recipe = recipeSchema.parse({ from: { template: "base" } });

async function request(name: string, tags: readonly string[] = []): Promise<BuildRow> {
  const { build } = await builds.request({ teamId: firstTeam, name, tags, vcpus: 1, memoryMib: 512 });
  return builds.start(own(build.id), recipe);
}

async function build(name: string, tags: readonly string[] = []): Promise<BuildRow> {
  await request(name, tags);
  return makeReady(database.db, host);
}

const sandboxOf = async (buildId: string) =>
  insertSandbox(database.db, {
    ...plainSandbox,
    id: `i${randomUUID().replaceAll("-", "").slice(0, 20)}`,
    hostId: "host-1",
    template: "one",
    timeCreated: new Date(),
    templateBuildId: buildId,
  });

test("a name means the build with the default tag, by name, id, tag and build", async () => {
  const first = await build("one");
  const second = await build("one:v2");
  const { row } = await templates.get(firstTeam, "one");
  const resolved = (of: BuildRow, name: string) => ({ hostTemplate: hostTemplateOf(of.id), buildId: of.id, templateId: row.id, name });
  for (const text of ["one", "ONE", "default/one", "nobodys/one", "one:default", row.id])
    expect(await templates.resolve(firstTeam, text), text).toEqual(resolved(first, "one"));
  expect(await templates.resolve(firstTeam, "one:v2")).toEqual(resolved(second, "one:v2"));
  expect(await templates.resolve(firstTeam, `one:${second.id}`)).toMatchObject({ buildId: second.id });
  for (const text of ["base", "two", "team/two", ":v1", "one:", hostTemplateOf(first.id), "t00000000000000000000"]) {
    expect(await templates.resolve(firstTeam, text), text).toBeUndefined();
  }
});

test("a tag that is not there, or a build that is not ready, is not found, and what there is is named", async () => {
  await request("one");
  await expect(templates.resolve(firstTeam, "one")).rejects.toMatchObject({
    code: "template_not_found",
    message: expect.stringContaining("no build of it is ready yet"),
  });
  const held = await claimOne(database.db);
  await expect(templates.resolve(firstTeam, `one:${held.id}`)).rejects.toMatchObject({ code: "build_wrong_state" });
  await end(database.db, held, { state: "failed", failure: { message: "no", step: null } });
  await build("one:v1");
  await expect(templates.resolve(firstTeam, "one")).rejects.toMatchObject({
    code: "template_not_found",
    message: expect.stringContaining("it has: v1"),
  });
  await expect(templates.resolve(firstTeam, `one:${randomUUID()}`)).rejects.toMatchObject({ code: "build_not_found" });
  const other = await build("two");
  await expect(templates.resolve(firstTeam, `one:${other.id}`)).rejects.toMatchObject({ code: "build_not_found" });
});

test("a later build takes the name over, and one that fails changes nothing", async () => {
  await build("one");
  const second = await build("one");
  await request("one");
  await end(database.db, await claimOne(database.db), { state: "failed", failure: { message: "no", step: "0" } });
  expect(await templates.resolve(firstTeam, "one")).toMatchObject({ buildId: second.id });
});

test("tags are set, moved and removed", async () => {
  const first = await build("one");
  const second = await build("one");
  expect((await templates.tag(firstTeam, "one", ["prod", "v2"])).build.id).toBe(second.id);
  expect((await templates.tag(firstTeam, "one", ["prod"], first.id)).build.id).toBe(first.id);
  expect((await templates.tag(firstTeam, "one:prod", ["default"])).build.id).toBe(first.id);
  const { tags, build: meant } = await templates.get(firstTeam, "one");
  expect(tags.map(({ tag, build_id: id }) => [tag, id])).toEqual([
    ["default", first.id],
    ["prod", first.id],
    ["v2", second.id],
  ]);
  expect(meant?.id).toBe(first.id);
  await templates.untag(firstTeam, "one", ["prod", "no-such-tag"]);
  expect((await templates.list(firstTeam))[0]?.tags.map(({ tag }) => tag)).toEqual(["default", "v2"]);
  await expect(templates.untag(firstTeam, "one", ["default"])).rejects.toMatchObject({ code: "request_invalid" });
  await expect(templates.untag(firstTeam, "two", ["x"])).rejects.toMatchObject({ code: "template_not_found" });
  await expect(templates.tag(firstTeam, "one:nothing", ["x"])).rejects.toMatchObject({ code: "template_not_found" });
  await expect(templates.tag(firstTeam, "one", ["x"], randomUUID())).rejects.toMatchObject({ code: "build_not_found" });
});

test("a template is deleted with everything of it, and hosts are told later", async () => {
  const first = await build("one");
  const second = await build("one");
  await templates.delete(firstTeam, "one");
  await expect(templates.get(firstTeam, "one")).rejects.toMatchObject({ code: "template_not_found" });
  await expect(builds.get(own(first.id))).rejects.toMatchObject({ code: "build_not_found" });
  expect((await listRemovals(database.db, 10)).sort()).toEqual([hostTemplateOf(first.id), hostTemplateOf(second.id)].sort());
  expect(pokes).toBe(1);
  await expect(templates.delete(firstTeam, "one")).rejects.toMatchObject({ code: "template_not_found" });
  await build("one");
});

test("a template is not deleted while a sandbox came from any of its builds", async () => {
  const first = await build("one");
  await build("one");
  const { id } = await sandboxOf(first.id);
  await expect(templates.delete(firstTeam, "one")).rejects.toMatchObject({ code: "template_in_use", message: expect.stringContaining(id) });
  expect(await templates.resolve(firstTeam, "one")).toBeDefined();
  await markStopped(database.db, id, "deleted", new Date());
  await templates.delete(firstTeam, "one");
});

test("a tag is not the template: it is not deleted by that name, and shown as that tag", async () => {
  const first = await build("one:v1");
  await expect(templates.delete(firstTeam, "one:v1")).rejects.toMatchObject({ code: "request_invalid" });
  expect((await templates.get(firstTeam, "one:v1")).build?.id).toBe(first.id);
  expect((await templates.get(firstTeam, "one")).build).toBeUndefined();
  await expect(templates.get(firstTeam, "one:v2")).rejects.toMatchObject({ code: "template_not_found" });
});

test("a build that goes on is cancelled when its template is deleted", async () => {
  await request("one");
  const held = await claimOne(database.db);
  await request("one");
  onCancel = () => void end(database.db, held, { state: "cancelled" }).catch(() => undefined);
  await templates.delete(firstTeam, "one");
  expect(await builds.list({ teamId: firstTeam, limit: 10 })).toEqual([]);
});

test("a name that a base template or snapshot has is refused, whatever its tag", async () => {
  const shot = { teamId: firstTeam, hostId: "host-1", hasMemory: true, sourceSandboxId: "i1", timeCreated: new Date() };
  const record = async (name: string) =>
    insertSnapshot(database.db, { ...shot, id: randomUUID(), name, hostTemplate: name }, { replace: false, waitMsMax: 60_000 });
  expect(await record("Shot:v1")).toBeUndefined();
  for (const name of ["base", "BASE", "base:v1", "shot"])
    await expect(request(name), name).rejects.toMatchObject({ code: "template_exists" });
  await build("one");
  expect([await record("one"), await record("One:v1"), await record("two")]).toEqual(["built template", "built template", undefined]);
  host.isUnreachable = true;
  await request("one");
  const hosts = new Hosts([new HostLink(host, silentLogger)]);
  const cut = new BuiltTemplates({ db: database.db, hosts, log: silentLogger, onRemoval: () => undefined, onCancel: () => undefined });
  await expect(cut.ensure(firstTeam, "three")).rejects.toMatchObject({ code: "host_unreachable" });
});

test("its team is told what becomes of a template, by the name that it knows, and of what is so already nothing", async () => {
  const { db } = database;
  await db.deleteFrom("event").execute();
  const actor = { kind: "user", id: "u1", name: "someone" } as const;
  const made = await build("one");
  await templates.setPublic(firstTeam, "one", true, actor);
  await templates.setPublic(firstTeam, "one", true, actor);
  await templates.tag(firstTeam, "one", ["v1", "v2"], undefined, actor);
  await templates.untag(firstTeam, "one", ["v1", "nothing"], actor);
  await templates.untag(firstTeam, "one", ["nothing"], actor);
  await templates.delete(firstTeam, "one", actor);
  const rows = await db.selectFrom("event").selectAll().where("subject_kind", "=", "template").orderBy("number").execute();
  expect(rows.map(({ kind, message }) => `${kind}: ${message}`)).toEqual([
    'template.created: template "one" was begun',
    'template.updated: template "one" was published: every team may use it',
    `template.updated: template "one" has the tags v1, v2 for build ${made.id}`,
    'template.updated: template "one" has the tags v1 no more',
    'template.deleted: template "one" was deleted',
  ]);
  for (const row of rows) expect(row).toMatchObject({ team_id: firstTeam, subject_kind: "template", subject_id: "one", template: "one" });
  expect(rows.slice(1).every((row) => row.actor.id === "u1")).toBe(true);
});

test("a template is public or not, which changes nothing else", async () => {
  await build("one");
  expect(await templates.setPublic(firstTeam, "one", true)).toMatchObject({ name: "one", is_public: true });
  expect((await templates.get(firstTeam, "one")).row.is_public).toBe(true);
});
