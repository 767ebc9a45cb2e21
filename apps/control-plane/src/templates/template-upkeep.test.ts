import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";

import { recipeSchema } from "@roost/contract";
import { hour, silentLogger } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import { listRemovals } from "../db/built-templates.ts";
import type { Database } from "../db/database.ts";
import { HostLink } from "../hosts/host-link.ts";
import { Hosts } from "../hosts/hosts.ts";
import { claimOne, end, makeReady } from "../testing/ended-build.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { hostError } from "../testing/fake-images.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { createTemplateServices, type TemplateServices } from "./template-services.ts";
import { TemplateUpkeep } from "./template-upkeep.ts";

let database: Database;
let host: FakeHost;
let dir: string;
let services: TemplateServices;
let upkeepAt: (afterMs: number) => TemplateUpkeep;

beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  const { db } = database;
  for (const table of ["sandbox", "snapshot", "built_template", "template_removal"] as const) await db.deleteFrom(table).execute();
  host = new FakeHost("host-1", () => 1);
  dir = await mkdtemp(join(tmpdir(), "roost-upkeep-"));
  const hosts = new Hosts([new HostLink(host, silentLogger)]);
  services = createTemplateServices({ db, hosts, dir, buildFilesMib: 1, pokeBuilds: () => undefined, log: silentLogger });
  upkeepAt = (afterMs) =>
    new TemplateUpkeep({ db, hosts, files: services.files, log: silentLogger, now: () => new Date(Date.now() + afterMs) });
});
afterEach(async () => rm(dir, { recursive: true }));

const recipe = recipeSchema.parse({ from: { template: "base" } });
async function request(name: string): Promise<string> {
  const { build } = await services.builds.request({ teamId: firstTeam, name, tags: [], vcpus: 1, memoryMib: 512 });
  await services.builds.start(own(build.id), recipe);
  return build.id;
}
async function build(name: string): Promise<string> {
  await request(name);
  return (await makeReady(database.db, host)).id;
}
const built = () => [...host.images.templates.keys()].filter((name) => name.startsWith("build-")).length;

test("the newest builds are kept and those with a tag, others are forgotten here and on hosts", async () => {
  const ids: string[] = [];
  for (let count = 0; count < 8; count += 1) ids.push(await build("one"));
  await build("two");
  await services.templates.tag(firstTeam, "one", ["keep"], ids[0]);
  await upkeepAt(0).round();
  const left = new Set((await services.builds.list({ teamId: firstTeam, limit: 100 })).map(({ id }) => id));
  expect(ids.map((id) => left.has(id))).toEqual([true, false, false, true, true, true, true, true]);
  expect(built()).toBe(7);
  expect(await listRemovals(database.db, 10)).toEqual([]);
});

test("builds that failed do not push out those that are ready", async () => {
  const first = await build("one");
  await services.templates.tag(firstTeam, "one", ["other"], await build("one"));
  for (let count = 0; count < 7; count += 1) {
    await request("one");
    await end(database.db, await claimOne(database.db), { state: "failed", failure: { message: "no", step: null } });
  }
  await upkeepAt(0).round();
  const left = await services.builds.list({ teamId: firstTeam, limit: 100 });
  expect(left.filter(({ state }) => state === "failed")).toHaveLength(5);
  expect(left.map(({ id }) => id)).toContain(first);
  expect(built()).toBe(2);
});

test("what a host still uses, or a host that does not answer has, is removed later", async () => {
  await build("one");
  await services.templates.delete(firstTeam, "one");
  host.images.failures.set("deleteTemplate", hostError("snapshot_in_use", "used by somebody"));
  await upkeepAt(0).round();
  expect([built(), await listRemovals(database.db, 10)]).toEqual([1, [expect.stringMatching(/^build-/)]]);
  host.isUnreachable = true;
  host.images.failures.set("deleteTemplate", hostError("host_unreachable", "gone"));
  await upkeepAt(0).round();
  expect(await listRemovals(database.db, 10)).toHaveLength(1);
  host.isUnreachable = false;
  await upkeepAt(0).round();
  expect([built(), await listRemovals(database.db, 10)]).toEqual([0, []]);
});

test("what a host does not have counts as removed", async () => {
  await request("one");
  await end(database.db, await claimOne(database.db), { state: "cancelled" });
  expect(await listRemovals(database.db, 10)).toHaveLength(1);
  host.images.failures.set("deleteTemplate", hostError("snapshot_not_found", "there is none"));
  await upkeepAt(0).round();
  expect(await listRemovals(database.db, 10)).toEqual([]);
});

test("a build that never got a recipe ends after a day", async () => {
  const { build: waiting } = await services.builds.request({ teamId: firstTeam, name: "one", tags: [], vcpus: 1, memoryMib: 512 });
  const started = await request("one");
  await upkeepAt(23 * hour).round();
  expect((await services.builds.get(own(waiting.id))).state).toBe("waiting");
  await upkeepAt(25 * hour).round();
  expect((await services.builds.get(own(waiting.id))).state).toBe("cancelled");
  expect((await services.builds.get(own(started))).state).toBe("waiting");
});

test("files go with their template, or after a week; a template without builds after a day", async () => {
  const put = async (name: string) => {
    const { id } = await services.templates.ensure(firstTeam, name);
    await services.files.put(id, "ab".repeat(32), Readable.from([Buffer.from("x")]), 1, new AbortController().signal);
    return async () => services.files.has(id, "ab".repeat(32));
  };
  await build("one");
  const has = { one: await put("one"), two: await put("two") };
  await upkeepAt(0).round();
  expect([await has.one(), await has.two()]).toEqual([true, true]);
  await upkeepAt(25 * hour).round();
  expect([await has.one(), await has.two()]).toEqual([true, false]);
  await expect(services.templates.get(firstTeam, "two")).rejects.toMatchObject({ code: "template_not_found" });
  await upkeepAt(8 * 24 * hour).round();
  expect(await has.one()).toBe(false);
});
