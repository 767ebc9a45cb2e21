import { randomUUID } from "node:crypto";

import { recipeSchema, type BuildLogLevel } from "@roost/contract";
import { silentLogger } from "@roost/kit";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { HostLink } from "../hosts/host-link.ts";
import { Hosts } from "../hosts/hosts.ts";
import { claimOne, end, makeReady } from "../testing/ended-build.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { appendBuildLog, claimBuild, updateBuild } from "./build-store.ts";
import { Builds, placeOf, type BuildNews } from "./builds.ts";
import { BuiltTemplates } from "./built-templates.ts";

let database: Database;
let host: FakeHost;
let builds: Builds;
let pokes: number;

beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  await database.db.deleteFrom("built_template").execute();
  host = new FakeHost("host-1", () => 1);
  pokes = 0;
  builds = another("test");
});

function another(claimedBy: string): Builds {
  const { db } = database;
  const hosts = new Hosts([new HostLink(host, silentLogger)]);
  const templates = new BuiltTemplates({ db, hosts, log: silentLogger, onRemoval: () => undefined, onCancel: () => undefined });
  return new Builds({ db, templates, log: silentLogger, claimedBy, poke: () => (pokes += 1) });
}

const recipe = recipeSchema.parse({
  from: { stage: "first" },
  steps: [{ kind: "run", command: "true" }],
  stages: [
    {
      name: "first",
      from: { template: "base" },
      steps: [
        { kind: "user", name: "user" },
        { kind: "run", command: "false" },
      ],
    },
  ],
});
const request = async (name = "one", tags: readonly string[] = []) =>
  builds.request({ teamId: firstTeam, name, tags, vcpus: 2, memoryMib: 1024 });
const line = (message: string, level: BuildLogLevel = "info", step: string | null = null, time = new Date()) => ({
  time,
  level,
  step,
  message,
});

test("a build that is created is there with its recipe and with what it is made for, or not at all", async () => {
  const asked = { teamId: firstTeam, name: "one:v1", tags: ["stable"], vcpus: 2, memoryMib: 1024 };
  const secret = { type: "basic", username: "me", password: "hidden" } as const;
  const seen: string[] = [];
  const failing = builds.create(asked, recipe, secret, async (_transaction, id) => {
    seen.push(id);
    throw new Error("its record is not written");
  });
  await expect(failing).rejects.toThrow("not written");
  expect(await database.db.selectFrom("build").selectAll().execute()).toEqual([]);
  expect(builds.credentialsOf(seen[0] ?? "")).toBeUndefined();
  expect(pokes).toBe(0);
  const { build, template } = await builds.create(asked, recipe, secret, async (_transaction, id) => void seen.push(id));
  expect(build).toMatchObject({ id: seen[1], template_id: template.id, state: "waiting", tags: ["v1", "stable"], step_count: 3, recipe });
  expect(builds.credentialsOf(build.id)).toEqual(secret);
  expect(pokes).toBe(1);
});

test("a build waits for its recipe, and then for its turn", async () => {
  const { template, build } = await request("Default/One:V1", ["v2", "V1"]);
  expect(template).toMatchObject({ name: "one", id: expect.stringMatching(/^t[a-z0-9]{20}$/) });
  expect(build).toMatchObject({ state: "waiting", recipe: null, tags: ["v1", "v2"], vcpus: 2, memory_mib: 1024 });
  expect((await request("one")).build.tags).toEqual(["default"]);
  expect((await request("one")).template.id).toBe(template.id);
  const started = await builds.start(own(build.id), recipe);
  expect(started).toMatchObject({ state: "waiting", recipe, step_count: 3, claimed_by: null });
  expect(pokes).toBe(1);
  await expect(builds.start(own(build.id), recipe)).rejects.toMatchObject({ code: "build_wrong_state" });
  await expect(builds.start(own(randomUUID()), recipe)).rejects.toMatchObject({ code: "build_not_found" });
});

test("names and tags that cannot be are refused before anything is recorded", async () => {
  await expect(request("a b")).rejects.toMatchObject({ code: "request_invalid" });
  await expect(request("one", [randomUUID()])).rejects.toMatchObject({ code: "request_invalid" });
  const many = Array.from({ length: 33 }, (_, index) => `t${index}`);
  await expect(request("one", many)).rejects.toMatchObject({ code: "request_invalid" });
  expect(await builds.list({ teamId: firstTeam, limit: 10 })).toEqual([]);
});

test("more open builds than there may be are refused", async () => {
  const { template } = await request();
  await database.db
    .insertInto("build")
    .values(
      Array.from({ length: 99 }, () => ({
        id: randomUUID(),
        team_id: firstTeam,
        template_id: template.id,
        state: "waiting" as const,
        tags: "[]",
        vcpus: 1,
        memory_mib: 512,
        time_created: new Date(),
      })),
    )
    .execute();
  await expect(request()).rejects.toMatchObject({ code: "rate_limited" });
  const [any] = await builds.list({ teamId: firstTeam, limit: 1 });
  await builds.cancel(own(any?.id ?? ""));
  await request();
});

test("credentials stay with the process that got them, and so does the build", async () => {
  const { build } = await request();
  const credentials = { type: "basic", username: "me", password: "secret" } as const;
  await builds.start(own(build.id), recipe, credentials);
  expect(builds.credentialsOf(build.id)).toEqual(credentials);
  expect(another("other").credentialsOf(build.id)).toBeUndefined();
  const now = new Date();
  const claim = { now, claimEnds: new Date(now.getTime() + 1000) };
  expect(await claimBuild(database.db, { ...claim, claimedBy: "other" })).toBeUndefined();
  const rows = await database.db.selectFrom("build").selectAll().execute();
  expect(JSON.stringify(rows)).not.toContain("secret");
  expect((await claimBuild(database.db, { ...claim, claimedBy: "test" }))?.id).toBe(build.id);
  await expect(builds.start(own(build.id), recipe, { type: "token", token: "another" })).rejects.toMatchObject({
    code: "build_wrong_state",
  });
  expect(builds.credentialsOf(build.id)).toEqual(credentials);
  builds.forgetCredentials(build.id);
  expect(builds.credentialsOf(build.id)).toBeUndefined();
});

test("a build that was left behind with its credentials is taken on by others, later, or at once where nobody else can be", async () => {
  const { build } = await request();
  await builds.start(own(build.id), recipe, { type: "token", token: "secret" });
  const now = new Date(Date.now() + 2 * 3600_000);
  const claimed = await claimBuild(database.db, { claimedBy: "other", now, claimEnds: new Date(now.getTime() + 1000) });
  expect(claimed?.id).toBe(build.id);
  const { build: second } = await request();
  await builds.start(own(second.id), recipe, { type: "token", token: "secret" });
  const exclusive = { claimedBy: "after a restart", now: new Date(), claimEnds: new Date(now.getTime() + 9999), isExclusive: true };
  expect([(await claimBuild(database.db, exclusive))?.id, (await claimBuild(database.db, exclusive))?.id].sort()).toEqual(
    [build.id, second.id].sort(),
  );
});

test("builds are listed newest first, in pages, by template and by state", async () => {
  const ids: string[] = [];
  for (const name of ["one", "two", "one", "one"]) ids.push((await request(name)).build.id);
  await builds.cancel(own(ids[0] ?? ""));
  const seen: string[] = [];
  let after: { timeCreated: Date; id: string } | undefined;
  do {
    const page = await builds.list({ teamId: firstTeam, limit: 3, ...(after === undefined ? {} : { after }) });
    seen.push(...page.map(({ id }) => id));
    const last = page.at(-1);
    after = last === undefined ? undefined : { timeCreated: placeOf(last).time, id: placeOf(last).key };
  } while (after !== undefined);
  expect([...seen].sort()).toEqual([...ids].sort());
  const first = await builds.get(own(ids[0] ?? ""));
  expect((await builds.list({ teamId: firstTeam, templateId: first.template_id, limit: 10 })).length).toBe(3);
  expect((await builds.list({ teamId: firstTeam, state: "cancelled", limit: 10 })).map(({ id }) => id)).toEqual([ids[0]]);
});

test("a cancelled build is told to whoever works at it; one that has ended stays what it is", async () => {
  const { build } = await request();
  await builds.start(own(build.id), recipe);
  const held = await claimOne(database.db);
  pokes = 0;
  expect(await builds.cancel(own(build.id))).toMatchObject({ state: "building", time_cancel_requested: expect.any(Date) });
  expect(pokes).toBe(1);
  await end(database.db, held, { state: "cancelled" });
  expect(await builds.cancel(own(build.id))).toMatchObject({ state: "cancelled" });
  await expect(builds.cancel(own(randomUUID()))).rejects.toMatchObject({ code: "build_not_found" });
});

test("a log is read from either end, from a time on, and from a level up", async () => {
  const { build } = await request();
  const at = (sec: number) => new Date(Date.UTC(2026, 0, 1, 0, 0, sec));
  const lines = [
    line("a", "debug", "0", at(1)),
    line("b", "info", "0", at(2)),
    line("c", "error", "1", at(2)),
    line("d", "warn", null, at(3)),
  ];
  await appendBuildLog(database.db, build.id, lines);
  const read = async (query: Parameters<Builds["logs"]>[1]) =>
    (await builds.logs(own(build.id), query)).map(({ message }) => message).join("");
  expect(await read({ limit: 10 })).toBe("abcd");
  expect(await read({ limit: 2, offset: 1 })).toBe("bc");
  expect(await read({ limit: 2, backward: true })).toBe("dc");
  expect(await read({ limit: 10, backward: true, offset: 3 })).toBe("a");
  expect(await read({ limit: 10, level: "warn" })).toBe("cd");
  expect(await read({ limit: 10, level: "warn", offset: 1 })).toBe("d");
  expect(await read({ limit: 10, time: at(2) })).toBe("bcd");
  expect(await read({ limit: 10, time: at(2), backward: true })).toBe("cba");
  expect(await read({ limit: 10, level: "debug" })).toBe("abcd");
});

test("a build is followed from any line on until it has ended", async () => {
  const { build } = await request();
  await builds.start(own(build.id), recipe);
  await appendBuildLog(database.db, build.id, [line("a"), line("b")]);
  const news: BuildNews[] = [];
  const states: string[] = [];
  const messages: string[] = [];
  let held: Awaited<ReturnType<typeof claimOne>> | undefined;
  for await (const item of builds.follow(own(build.id), 1, new AbortController().signal)) {
    news.push(item);
    if ("lines" in item) messages.push(...item.lines.map(({ message }) => message));
    else states.push(`${item.build.state} ${item.build.steps_done}`);
    if (messages.length === 1 && held === undefined) {
      held = await claimOne(database.db);
      await appendBuildLog(
        database.db,
        build.id,
        Array.from({ length: 700 }, (_, index) => line(String(index))),
      );
      held = await updateBuild(database.db, held, { steps_done: 1 });
    } else if (messages.length === 701 && held?.state === "building") {
      await appendBuildLog(database.db, build.id, [line("last")]);
      held = await end(database.db, held, { state: "failed", failure: { message: "no", step: "0" } });
    }
  }
  expect(messages).toEqual(["b", ...Array.from({ length: 700 }, (_, index) => String(index)), "last"]);
  expect(states).toEqual(["waiting 0", "building 1", "failed 1"]);
});

test("following ends when nobody wants to know any more, and with a build that is gone", async () => {
  const { build } = await request();
  const abort = new AbortController();
  const seen: BuildNews[] = [];
  for await (const item of builds.follow(own(build.id), 0, abort.signal)) {
    seen.push(item);
    abort.abort();
  }
  expect(seen).toHaveLength(1);
  await builds.start(own(build.id), recipe);
  await makeReady(database.db, host);
  const all: BuildNews[] = [];
  for await (const item of builds.follow(own(build.id), 0, new AbortController().signal)) all.push(item);
  expect(all).toMatchObject([{ build: { state: "ready" } }]);
  await expect(builds.follow(own(randomUUID()), 0, new AbortController().signal).next()).rejects.toMatchObject({ code: "build_not_found" });
});
