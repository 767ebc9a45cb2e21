import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { askE2b, makeE2bSandbox, type E2bAnswer } from "../testing/e2b-calls.ts";
import { World } from "../testing/world.ts";

let world: World;
let id: string;
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());
beforeEach(async () => {
  await world.database.db.deleteFrom("snapshot").execute();
  for (const name of world.host.images.templates.keys()) if (name !== "base") world.host.images.templates.delete(name);
  id = (await makeE2bSandbox(world)).sandboxID;
});

const ask = async (method: string, path: string, body?: unknown) => askE2b<unknown>(world, method, path, body);
const snapshot = async (body?: object) => ask("POST", `/sandboxes/${id}/snapshots`, body);

test.each([
  [{ name: "mine" }, "mine:default", ["mine:default", "mine"]],
  [{ name: "mine:v1" }, "mine:v1", ["mine:v1"]],
  [{ name: "default/mine" }, "mine:default", ["mine:default", "mine"]],
  [{}, expect.stringMatching(/^s[a-z0-9]{20}:default$/), []],
  [undefined, expect.stringMatching(/^s[a-z0-9]{20}:default$/), []],
])("a snapshot with %j can be started from, listed and deleted", async (body, snapshotID, names) => {
  const made = await snapshot(body);
  expect(made.status).toBe(201);
  expect(made.body).toEqual({ snapshotID, names });
  const given = (made.body as { snapshotID: string }).snapshotID;
  expect((await ask("GET", `/snapshots?sandboxID=${id}`)).body).toEqual([made.body]);
  const started = await ask("POST", "/sandboxes", { templateID: given });
  expect(started.status).toBe(201);
  const { sandboxID } = started.body as { sandboxID: string };
  expect((await ask("GET", `/v2/sandboxes?template=${given}`)).body).toMatchObject([{ sandboxID }]);
  expect(await ask("DELETE", `/templates/${encodeURIComponent(given)}`)).toMatchObject({ status: 409, body: { code: 409 } });
  await ask("DELETE", `/sandboxes/${sandboxID}`);
  expect((await ask("DELETE", `/templates/${encodeURIComponent(given)}`)).status).toBe(204);
  expect(await ask("DELETE", `/templates/${given}`)).toMatchObject({ status: 404, body: { code: 404 } });
  expect((await ask("GET", `/snapshots?sandboxID=${id}`)).body).toEqual([]);
  expect((await ask("GET", `/sandboxes/${id}`)).body).toMatchObject({ state: "running" });
});

test("a snapshot of a paused sandbox leaves it paused", async () => {
  await ask("POST", `/sandboxes/${id}/pause`);
  expect((await snapshot({ name: "still" })).status).toBe(201);
  expect((await ask("GET", `/sandboxes/${id}`)).body).toMatchObject({ state: "paused" });
});

test("a snapshot gives way to a newer one of its name", async () => {
  await snapshot({ name: "again" });
  const { body } = await ask("POST", "/sandboxes", { templateID: "again", timeout: 300 });
  id = String((body as Record<string, unknown>)["sandboxID"]);
  expect(await snapshot({ name: "again" })).toMatchObject({ status: 201, body: { snapshotID: "again:default" } });
  expect((await ask("GET", "/snapshots?name=again")).body).toHaveLength(1);
  expect((await ask("GET", `/snapshots?sandboxID=${id}`)).body).toHaveLength(1);
});

test("a name of a base template, or one that cannot be one, is refused", async () => {
  expect(await snapshot({ name: "base" })).toMatchObject({ status: 409, body: { code: 409, error_code: "snapshot_exists" } });
  for (const name of ["", ":v1", "x:", "a b", "../x", 5]) expect(await snapshot({ name }), String(name)).toMatchObject({ status: 400 });
});

test("snapshots come in pages, and by name", async () => {
  for (const name of ["p1", "p2", "p2:v1", "p3", "q"]) await snapshot({ name });
  const seen: string[] = [];
  let token: string | null = "";
  while (token !== null) {
    const page: E2bAnswer<unknown> = await ask("GET", `/snapshots?limit=2${token === "" ? "" : `&nextToken=${token}`}`);
    seen.push(...(page.body as { snapshotID: string }[]).map(({ snapshotID }) => snapshotID));
    token = page.headers.get("x-next-token");
  }
  expect(seen.sort()).toEqual(["p1:default", "p2:default", "p2:v1", "p3:default", "q:default"]);
  const named = async (name: string) =>
    ((await ask("GET", `/snapshots?name=${name}`)).body as { snapshotID: string }[]).map(({ snapshotID }) => snapshotID).sort();
  expect(await named("p2")).toEqual(["p2:default", "p2:v1"]);
  expect(await named("p2:v1")).toEqual(["p2:v1"]);
  expect(await named("p2:default")).toEqual(["p2:default"]);
  expect(await named("default/p1")).toEqual(["p1:default"]);
  expect(await named("nothing")).toEqual([]);
  expect((await ask("GET", "/snapshots?nextToken=x")).status).toBe(400);
});

test("templates are what there is to start from, in the form that E2B's CLI reads", async () => {
  await snapshot({ name: "not-a-template" });
  const base = {
    templateID: "base",
    names: ["base"],
    aliases: ["base"],
    cpuCount: 1,
    memoryMB: 512,
    diskSizeMB: 2048,
    public: false,
    buildID: expect.stringMatching(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/),
    buildStatus: "ready",
    envdVersion: "0.6.13",
  };
  expect((await ask("GET", "/templates?teamID=x")).body).toEqual([expect.objectContaining(base)]);
  expect((await ask("GET", "/v2/templates")).body).toEqual([expect.objectContaining(base)]);
  expect((await ask("GET", "/templates/base")).body).toMatchObject({
    templateID: "base",
    builds: [{ buildID: base.buildID, status: "ready" }],
  });
  expect((await ask("GET", "/templates/not-a-template")).status).toBe(200);
  expect(await ask("GET", "/templates/nothing")).toMatchObject({ status: 404, body: { code: 404 } });
  expect((await ask("GET", "/templates/aliases/base")).body).toEqual({ templateID: "base", public: false });
  expect(await ask("GET", "/templates/aliases/nothing")).toMatchObject({ status: 404, body: { code: 404 } });
  expect(await ask("DELETE", "/templates/base")).toMatchObject({ status: 404 });
});
