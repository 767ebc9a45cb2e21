import { defaultTeamId, scopesOfRole } from "@roost/contract";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { systemCaller } from "../accounts/caller.ts";
import { createTestTeam } from "../testing/callers.ts";
import { makeReady } from "../testing/ended-build.ts";
import { World } from "../testing/world.ts";

/** Two teams that give everything the same names: each has its own, and nothing of the other's is anywhere to be seen. */

interface Answer {
  readonly status: number;
  readonly body: never;
}
type Ask = (method: string, path: string, body?: unknown) => Promise<Answer>;

let world: World;
let otherTeam: string;
/** Of the first team (slug `default`), and of another (slug `other`) */
let first: Ask;
let other: Ask;

beforeAll(async () => {
  world = await World.start({ options: { buildsAtOnce: 0 } });
  otherTeam = await createTestTeam(world.database.db, "other");
  first = await asTeam(defaultTeamId);
  other = await asTeam(otherTeam);
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

beforeEach(async () => {
  const { db } = world.database;
  for (const table of ["sandbox", "snapshot", "built_template", "template_removal", "event"] as const) await db.deleteFrom(table).execute();
  await db.updateTable("team").set({ quota: "{}" }).execute();
  world.host.sandboxes.clear();
});

async function asTeam(teamId: string): Promise<Ask> {
  const made = { name: "test", scopes: [...scopesOfRole.member], expiresInSec: null };
  const { key } = await world.controlPlane.apiKeys.create(systemCaller(teamId), made);
  return async (method, path, body) => {
    const answer = await world.request(method, path, body, { "x-api-key": key });
    const text = await answer.text();
    return { status: answer.status, body: (text === "" ? {} : parsed(text)) as never };
  };
}

/** Logs are text. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

async function ok<Body>(answer: Promise<Answer>): Promise<Body> {
  const { status, body } = await answer;
  if (status >= 300) throw new Error(`answered ${status}: ${JSON.stringify(body)}`);
  return body;
}

const recipe = { from: { template: "base" }, steps: [{ kind: "run", command: "true" }] };

/** A build of `app` that is ready, with the tags `default` and `v1`. */
async function build(ask: Ask): Promise<string> {
  const { id } = await ok<{ id: string }>(ask("POST", "/v1/builds", { name: "app:v1", tags: ["default"], recipe }));
  await makeReady(world.database.db, world.host, { hasMemory: false, vcpus: 0, memoryMib: 0 });
  return id;
}

async function sandbox(ask: Ask, template = "base"): Promise<{ readonly id: string; readonly template: string }> {
  return ok(ask("POST", "/v1/sandboxes", { template, metadata: { same: "same" } }));
}

/** A sandbox, a build of `app`, and a snapshot `shot`. */
async function fill(ask: Ask): Promise<{ readonly sandboxId: string; readonly buildId: string; readonly templateId: string }> {
  const { id } = await sandbox(ask);
  const buildId = await build(ask);
  await ok(ask("POST", "/v1/snapshots", { sandbox_id: id, name: "shot" }));
  const detail = await ok<{ id: string }>(ask("GET", "/v1/templates/app"));
  return { sandboxId: id, buildId, templateId: detail.id };
}

async function recordOf(id: string) {
  return world.database.db
    .selectFrom("sandbox")
    .leftJoin("snapshot", "snapshot.id", "sandbox.template_snapshot_id")
    .select(["sandbox.team_id", "template_build_id", "snapshot.team_id as snapshot_team"])
    .where("sandbox.id", "=", id)
    .executeTakeFirstOrThrow();
}

test("the same names of templates, tags and snapshots mean each team's own", async () => {
  const sides = [
    { ask: first, teamId: defaultTeamId, has: await fill(first) },
    { ask: other, teamId: otherTeam, has: await fill(other) },
  ];
  for (const { ask, teamId, has } of sides) {
    for (const name of ["app", "app:v1", has.templateId, `app:${has.buildId}`]) {
      const { id } = await sandbox(ask, name);
      expect(await recordOf(id), name).toMatchObject({ team_id: teamId, template_build_id: has.buildId });
    }
    const { id } = await sandbox(ask, "shot");
    expect(await recordOf(id)).toMatchObject({ team_id: teamId, snapshot_team: teamId });
    expect(await ok(ask("GET", "/v1/snapshots/shot"))).toMatchObject({ source_sandbox_id: has.sandboxId });
    expect(await ok(ask("GET", "/v1/templates/app"))).toMatchObject({ id: has.templateId, build_id: has.buildId });
    const { templates } = await ok<{ templates: { name: string }[] }>(ask("GET", "/v1/templates"));
    expect(templates.map(({ name }) => name)).toEqual(["app", "base", "shot"]);
  }
  const { has } = sides[1] ?? { has: undefined };
  await ok(other("PUT", "/v1/templates/app/tags/v2", {}));
  expect((await first("POST", "/v1/sandboxes", { template: "app:v2" })).status).toBe(404);
  expect((await first("POST", "/v1/sandboxes", { template: `app:${has?.buildId}` })).status).toBe(404);
  expect((await first("POST", "/v1/sandboxes", { template: has?.templateId })).status).toBe(404);
});

test("what one team deletes is still the other's", async () => {
  await fill(first);
  await fill(other);
  await ok(other("DELETE", "/v1/templates/app"));
  await ok(other("DELETE", "/v1/snapshots/shot"));
  for (const name of ["app", "shot"]) {
    expect((await other("POST", "/v1/sandboxes", { template: name })).status, name).toBe(404);
    await sandbox(first, name);
  }
});

test("no list, log, event or number of one team holds anything of another's", async () => {
  const { sandboxId, buildId, templateId } = await fill(first);
  await ok(first("POST", `/v1/sandboxes/${sandboxId}/pause`, {}));
  await ok(first("POST", `/v1/sandboxes/${sandboxId}/resume`, {}));
  const lists = [
    "/v1/sandboxes?state=running,paused,stopped,creating",
    "/v1/sandboxes?metadata=same%3Dsame",
    "/v1/builds",
    "/v1/snapshots",
    "/v1/templates",
    "/v1/events",
    `/v1/events?sandbox_id=${sandboxId}`,
    "/sandboxes",
    "/v2/sandboxes?state=running,paused",
    `/sandboxes/metrics?sandbox_ids=${sandboxId}`,
    "/templates",
    "/v2/templates",
    "/snapshots",
    `/snapshots?sandboxID=${sandboxId}`,
  ];
  for (const path of lists) {
    const [own, others] = [await first("GET", path), await other("GET", path)];
    expect([own.status, others.status], path).toEqual([200, 200]);
    const text = JSON.stringify(others.body);
    for (const mark of [sandboxId, buildId, templateId, '"shot', '"app']) expect(text, path).not.toContain(mark);
    const isEmptyForAll = path.startsWith("/sandboxes/metrics"); // nobody has measured anything
    if (!isEmptyForAll) expect(JSON.stringify(own.body), path).not.toBe(text);
  }
  const running = await world.request("GET", "/v2/sandboxes?state=running", undefined, {});
  expect(running.headers.get("x-total-running")).toBe("1");
});

test("by its id, a thing of another team is not there, and nothing is done to it", async () => {
  const { sandboxId, buildId, templateId } = await fill(first);
  const asked: readonly (readonly [string, string, unknown?])[] = [
    ["GET", `/v2/sandboxes/${sandboxId}/logs`],
    ["GET", `/sandboxes/${sandboxId}/logs`],
    ["GET", `/sandboxes/${sandboxId}/metrics`],
    ["GET", `/sandboxes/${sandboxId}`],
    ["POST", `/sandboxes/${sandboxId}/connect`, { timeout: 60 }],
    ["POST", `/sandboxes/${sandboxId}/timeout`, { timeout: 0 }],
    ["POST", `/sandboxes/${sandboxId}/pause`, {}],
    ["POST", `/sandboxes/${sandboxId}/snapshots`, { name: "stolen" }],
    ["PUT", `/sandboxes/${sandboxId}/network`, { allowOut: [] }],
    ["DELETE", `/sandboxes/${sandboxId}`],
    ["DELETE", `/v1/sandboxes/${sandboxId}`],
    ["POST", `/v1/sandboxes/${sandboxId}/fork`, { count: 1 }],
    ["POST", "/v1/snapshots", { sandbox_id: sandboxId, name: "stolen" }],
    ["POST", `/v1/builds/${buildId}/cancel`, {}],
    ["GET", `/v1/builds/${buildId}/logs`],
    ["GET", `/templates/${templateId}`],
    ["GET", `/templates/${templateId}/builds/${buildId}/status`],
    ["DELETE", `/templates/${templateId}`],
    ["PATCH", `/v2/templates/${templateId}`, { public: true }],
    ["GET", `/templates/${templateId}/files/${"0".repeat(64)}`],
    ["PUT", `/v1/templates/${templateId}/tags/v9`, {}],
  ];
  for (const [method, path, body] of asked) {
    const { status, body: answer } = await other(method, path, body);
    expect(status, `${method} ${path}: ${JSON.stringify(answer)}`).toBe(404);
  }
  expect(await ok(first("GET", `/v1/sandboxes/${sandboxId}`))).toMatchObject({ state: "running", expires_at: null });
  expect(await ok(first("GET", "/v1/templates/app"))).toMatchObject({ is_public: false, tags: ["default", "v1"] });
});

test("a public template is everybody's to use, under its team's slug or its id, and only its team's to change", async () => {
  const { templateId, buildId } = await fill(first);
  expect((await other("POST", "/v1/sandboxes", { template: "default/app" })).status).toBe(404);
  await ok(first("PATCH", `/v2/templates/${templateId}`, { public: true }));

  const { templates } = await ok<{ templates: { name: string }[] }>(other("GET", "/v1/templates"));
  expect(templates).toMatchObject([{ name: "base" }, { name: "default/app", kind: "built", is_public: true, build_id: buildId }]);
  expect(await ok(other("GET", "/v1/templates/default%2Fapp"))).toMatchObject({ name: "default/app", id: templateId });
  expect(await ok(other("GET", "/templates/aliases/default%2Fapp"))).toEqual({ templateID: templateId, public: true });
  for (const [name, shown] of [
    ["default/app", "default/app"],
    ["default/app:v1", "default/app:v1"],
    [templateId, "default/app"],
  ] as const) {
    const made = await sandbox(other, name);
    expect(made.template).toBe(shown);
    expect(await recordOf(made.id)).toMatchObject({ team_id: otherTeam, template_build_id: buildId });
  }
  const listed = await ok<unknown[]>(other("GET", "/v2/sandboxes?template=default%2Fapp"));
  expect(listed).toHaveLength(2);
  await ok(other("POST", "/v1/builds", { name: "mine", recipe: { from: { template: "default/app" } } }));

  expect((await other("POST", "/v1/sandboxes", { template: "app" })).status).toBe(404);
  expect((await other("POST", "/v1/sandboxes", { template: "default/shot" })).status).toBe(404);
  for (const [method, path, body] of [
    ["DELETE", "/v1/templates/default%2Fapp"],
    ["DELETE", `/templates/${templateId}`],
    ["PUT", "/v1/templates/default%2Fapp/tags/v9", {}],
    ["PATCH", `/v2/templates/${templateId}`, { public: false }],
    ["POST", "/templates/tags", { target: "default/app", tags: ["v9"] }],
  ] as const) {
    expect((await other(method, path, body)).status, `${method} ${path}`).toBe(404);
  }
  expect((await other("POST", "/v3/templates", { name: "default/app" })).status).toBe(400);

  await ok(first("PATCH", `/v2/templates/${templateId}`, { public: false }));
  expect((await other("POST", "/v1/sandboxes", { template: "default/app" })).status).toBe(404);
  await ok(first("DELETE", "/v1/templates/app")); // sandboxes of other teams do not keep it
  const { sandboxes } = await ok<{ sandboxes: unknown[] }>(other("GET", "/v1/sandboxes"));
  expect(sandboxes).toHaveLength(3);
});

test("a namespace is the own one or another's: base templates are everybody's, and another's are not mistaken for one's own", async () => {
  await fill(first);
  await fill(other);
  expect(await sandbox(other, "other/base")).toMatchObject({ template: "base" });
  expect(await sandbox(other, "other/app:v1")).toMatchObject({ template: "app:v1" });
  expect(await sandbox(other, "other/shot")).toMatchObject({ template: "shot" });
  // of no team: code from elsewhere, whose team there had that name
  for (const name of ["app:v1", "shot", "base"]) expect(await sandbox(other, `nobody/${name}`)).toMatchObject({ template: name });
  for (const template of ["default/base", "default/app", "default/shot"]) {
    expect((await other("POST", "/v1/sandboxes", { template })).status, template).toBe(404);
    expect((await other("POST", "/sandboxes", { templateID: template, timeout: 60 })).status, template).toBe(404);
  }
});

test("builds at once are counted for each team", async () => {
  const { db } = world.database;
  await db
    .updateTable("team")
    .set({ quota: JSON.stringify({ builds_at_once: 2 }) })
    .where("id", "=", otherTeam)
    .execute();
  const begin = async (ask: Ask, name: string) => ask("POST", "/v1/builds", { name, recipe });
  for (const name of ["a", "b", "c"]) expect((await begin(first, name)).status).toBe(202);
  const begun = await Promise.all(["a", "b", "c", "d", "e"].map(async (name) => begin(other, name)));
  expect(begun.map(({ status }) => status).sort()).toEqual([202, 202, 429, 429, 429]);
  expect(begun.find(({ status }) => status === 429)?.body).toMatchObject({
    error: { code: "rate_limited", message: expect.stringContaining("builds_at_once") },
  });
});

test("E2B's clients are told the team that their key is for", async () => {
  expect(await ok(other("GET", "/teams"))).toMatchObject([{ teamID: otherTeam, name: "other", isDefault: true }]);
});
