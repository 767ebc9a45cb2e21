import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { appendBuildLog, findBuild } from "../templates/build-store.ts";
import { claimOne, end, makeReady } from "../testing/ended-build.ts";
import { own } from "../testing/first-team.ts";
import { World } from "../testing/world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start({ options: { buildsAtOnce: 0 } }); // the tests run builds themselves
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());
beforeEach(async () => {
  await world.database.db.deleteFrom("snapshot").execute();
  await world.database.db.deleteFrom("built_template").execute();
  for (const name of world.host.images.templates.keys()) if (name !== "base") world.host.images.templates.delete(name);
});

interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: unknown;
}

async function ask(method: string, path: string, body?: unknown): Promise<Answer> {
  const answer = await world.request(method, path, body);
  const text = await answer.text();
  return { status: answer.status, headers: answer.headers, body: text === "" ? undefined : JSON.parse(text) };
}

interface Requested {
  readonly templateID: string;
  readonly buildID: string;
}

async function request(body: object): Promise<Requested> {
  const { status, body: answer } = await ask("POST", "/v3/templates", body);
  expect(status, JSON.stringify(answer)).toBe(202);
  return answer as Requested;
}

async function start({ templateID, buildID }: Requested, body: object = { fromImage: "debian:12" }): Promise<Answer> {
  return ask("POST", `/v2/templates/${templateID}/builds/${buildID}`, body);
}

async function ready(name: string): Promise<Requested> {
  const requested = await request({ name });
  await start(requested);
  await makeReady(world.database.db, world.host);
  return requested;
}

const statusOf = async ({ templateID, buildID }: Requested, query = "") =>
  ask("GET", `/templates/${templateID}/builds/${buildID}/status${query}`);
const line = (message: string, step: string | null = null, level: "info" | "error" = "info") => ({
  time: new Date(),
  level,
  step,
  message,
});

test("a build as the SDK asks for it: request, files, start, status, sandbox", async () => {
  const requested = await request({ name: "Default/My-App:V1", tags: ["v2"], cpuCount: 1, memoryMB: 512 });
  expect(requested).toEqual({
    templateID: expect.stringMatching(/^t[a-z0-9]{20}$/),
    buildID: expect.stringMatching(/^[0-9a-f-]{36}$/),
    public: false,
    names: ["my-app"],
    aliases: ["my-app"],
    tags: ["v1", "v2"],
  });
  const hash = "cd".repeat(32);
  const link = await ask("GET", `/templates/${requested.templateID}/files/${hash}`);
  expect(link).toMatchObject({ status: 201, body: { present: false, url: expect.stringMatching(`^${world.url}/`) } });
  const { url } = link.body as { url: string };
  expect((await fetch(url, { method: "PUT", body: "archive" })).status).toBe(200);
  expect((await ask("GET", `/templates/${requested.templateID}/files/${hash}`)).body).toMatchObject({ present: true });

  const steps = [
    { type: "COPY", args: ["a", "/a", "", ""], filesHash: hash },
    { type: "RUN", args: ["make"] },
  ];
  expect(await statusOf(requested)).toMatchObject({ body: { status: "waiting", logEntries: [] } });
  expect(await start(requested, { fromImage: "debian:12", steps })).toMatchObject({ status: 202 });
  expect(await start(requested, { fromImage: "debian:12", steps })).toMatchObject({ status: 409, body: { code: 409 } });
  await appendBuildLog(world.database.db, requested.buildID, [line("begin", "base"), line("copied", "2"), line("made", "3")]);
  await makeReady(world.database.db, world.host);
  const status = await statusOf(requested);
  expect(status).toMatchObject({
    status: 200,
    body: { status: "ready", templateID: requested.templateID, buildID: requested.buildID, logs: [] },
  });
  expect((status.body as { logEntries: object[] }).logEntries).toEqual([
    { timestamp: expect.any(String), level: "info", message: "begin", step: "base" },
    { timestamp: expect.any(String), level: "info", message: "copied", step: "1" },
    { timestamp: expect.any(String), level: "info", message: "made", step: "2" },
  ]);
  expect((await statusOf(requested, "?logsOffset=2")).body).toMatchObject({ logEntries: [{ message: "made" }] });
  expect((await statusOf(requested, "?logsOffset=3")).body).toMatchObject({ logEntries: [] });
  expect((await statusOf(requested, "?limit=1")).body).toMatchObject({ logEntries: [{ message: "begin" }] });

  const made = await ask("POST", "/sandboxes", { templateID: "my-app:v1" });
  expect(made).toMatchObject({ status: 201, body: { templateID: "my-app:v1" } });
  const { sandboxID } = made.body as { sandboxID: string };
  expect(await ask("POST", "/sandboxes", { templateID: `${requested.templateID}:v2` })).toMatchObject({ status: 201 });
  expect(await ask("POST", "/sandboxes", { templateID: "my-app" })).toMatchObject({ status: 404 });
  expect((await ask("GET", "/v2/sandboxes?template=my-app:v1")).body).toMatchObject([{ sandboxID }]);
});

test("sizes are E2B's where none are given, and limits are said", async () => {
  const { buildID } = await request({ alias: "sized", cpuCount: null, memoryMB: null });
  expect(await findBuild(world.database.db, own(buildID))).toMatchObject({ vcpus: 2, memory_mib: 1024, tags: ["default"] });
  for (const body of [
    {},
    { name: ":v1" },
    { name: "x:" },
    { name: "x", cpuCount: 0 },
    { name: "x", memoryMB: 1 },
    { name: "x", tags: [buildID] },
  ]) {
    expect(await ask("POST", "/v3/templates", body), JSON.stringify(body)).toMatchObject({ status: 400, body: { code: 400 } });
  }
  expect(await ask("POST", "/v3/templates", { name: "base" })).toMatchObject({ status: 409, body: { error_code: "template_exists" } });
});

test("a failure says which call it was, and what was written of it", async () => {
  const requested = await request({ name: "failing" });
  await start(requested, {
    fromImage: "debian:12",
    steps: [
      { type: "RUN", args: ["true"] },
      { type: "RUN", args: ["whoami"], force: true },
    ],
  });
  await appendBuildLog(world.database.db, requested.buildID, [line("fine", "2"), line("oh no", "3", "error")]);
  const held = await claimOne(world.database.db);
  expect((await statusOf(requested)).body).toMatchObject({ status: "building" });
  const message = "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'";
  await end(world.database.db, held, { state: "failed", failure: { message, step: "3" } });
  expect((await statusOf(requested, "?level=error")).body).toMatchObject({
    status: "error",
    reason: { message, step: "2", logEntries: [{ message: "oh no", step: "2", level: "error" }] },
    logEntries: [{ message: "oh no" }],
  });
  const logs = await ask("GET", `/templates/${requested.templateID}/builds/${requested.buildID}/logs?direction=backward&limit=1`);
  expect(logs.body).toEqual({ logs: [expect.objectContaining({ message: "oh no" })] });
});

test("a cancelled build is an error that says so", async () => {
  const requested = await request({ name: "cancelled" });
  await world.request("POST", `/v1/builds/${requested.buildID}/cancel`);
  expect((await statusOf(requested)).body).toMatchObject({ status: "error", reason: { message: expect.stringContaining("cancelled") } });
});

test("a build is found under its own template only", async () => {
  const [one, two] = [await request({ name: "one" }), await request({ name: "two" })];
  const mixed = { templateID: two.templateID, buildID: one.buildID };
  for (const requested of [
    mixed,
    { ...one, buildID: "x" },
    { ...one, buildID: "00000000-0000-4000-8000-000000000000" },
    { ...one, templateID: "nothing" },
  ]) {
    expect(await statusOf(requested)).toMatchObject({ status: 404, body: { code: 404 } });
    expect(await start(requested)).toMatchObject({ status: 404 });
  }
  expect(await statusOf({ ...one, templateID: "one" })).toMatchObject({ status: 200 });
  expect(await start(one, { fromImage: "a", fromTemplate: "b" })).toMatchObject({ status: 400 });
  expect(await start(one)).toMatchObject({ status: 202 });
});

test("the URL for an upload is good for that archive only", async () => {
  const { templateID } = await request({ name: "uploads" });
  const link = await ask("GET", `/templates/uploads/files/${"cd".repeat(32)}`);
  const { url } = link.body as { url: string };
  expect(url).toContain(templateID);
  const put = async (to: string, headers: Record<string, string> = {}) => (await fetch(to, { method: "PUT", body: "x", headers })).status;
  expect(await put(url.replaceAll("cd", "ef"))).toBe(401);
  expect(await put(url.replace(/token=.*/, "token=x"))).toBe(401);
  expect(await put(url.replace(/\?.*/, ""))).toBe(401);
  expect(await put(url.replace(/\?.*/, ""), { "x-api-key": world.key })).toBe(200);
  expect(await put(url)).toBe(200);
  expect(await put(url, { "content-encoding": "gzip" })).toBe(415);
  const chunked: RequestInit = { method: "PUT", body: new Blob(["x", "y"]).stream(), duplex: "half" };
  expect((await fetch(url, chunked)).status).toBe(200); // older clients do not say how long it is
  expect((await ask("GET", `/templates/uploads/files/${"cd".repeat(32)}`)).body).toMatchObject({ present: true });
  expect((await ask("GET", `/templates/uploads/files/${"zz".repeat(32)}`)).status).toBe(400);
  expect((await ask("GET", `/templates/nothing/files/${"cd".repeat(32)}`)).status).toBe(404);
});

test("templates are listed with what there is of builds, shown, made public and deleted", async () => {
  const one = await ready("one");
  const two = await request({ name: "two" });
  const list = (await ask("GET", "/templates")).body as { templateID: string; names: string[] }[];
  expect(list.map(({ names }) => names[0]).sort()).toEqual(["base", "one", "two"]);
  const found = (id: string) => list.find(({ templateID }) => templateID === id);
  expect(found(one.templateID)).toMatchObject({
    names: ["one"],
    aliases: ["one"],
    buildID: one.buildID,
    buildStatus: "ready",
    buildCount: 1,
    public: false,
  });
  expect(found(two.templateID)).toMatchObject({ buildID: two.buildID, buildStatus: "waiting" });
  const seen: unknown[] = [];
  let token: string | null = "";
  while (token !== null) {
    const page: Answer = await ask("GET", `/v2/templates?limit=2${token === "" ? "" : `&nextToken=${token}`}`);
    seen.push(...(page.body as unknown[]));
    token = page.headers.get("x-next-token");
  }
  expect(seen).toHaveLength(3);

  await ready("one");
  const builds = await ask("GET", "/templates/one?limit=1");
  expect(builds.body).toMatchObject({ templateID: one.templateID, builds: [{ status: "ready", cpuCount: 2, memoryMB: 1024 }] });
  const rest = await ask("GET", `/templates/${one.templateID}?limit=1&nextToken=${builds.headers.get("x-next-token")}`);
  expect(rest.body).toMatchObject({ builds: [{ buildID: one.buildID }] });
  expect(rest.headers.get("x-next-token")).toBeNull();

  expect(await ask("PATCH", `/v2/templates/${one.templateID}`, { public: true })).toMatchObject({ status: 200, body: { names: ["one"] } });
  expect(await ask("GET", "/templates/aliases/one")).toMatchObject({ status: 200, body: { templateID: one.templateID, public: true } });
  expect(await ask("PATCH", "/v2/templates/nothing", { public: true })).toMatchObject({ status: 404 });
  const { body } = await ask("POST", "/sandboxes", { templateID: "one" });
  expect(await ask("DELETE", `/templates/${one.templateID}`)).toMatchObject({ status: 409, body: { error_code: "template_in_use" } });
  await ask("DELETE", `/sandboxes/${(body as { sandboxID: string }).sandboxID}`);
  expect((await ask("DELETE", `/templates/${one.templateID}`)).status).toBe(204);
  expect(await ask("DELETE", "/templates/one")).toMatchObject({ status: 404, body: { message: 'there is no template "one"' } });
  expect(await ask("DELETE", "/templates/base")).toMatchObject({
    status: 404,
    body: { message: expect.stringContaining("base template") },
  });
});

test("whether there is a template of a name", async () => {
  await ready("one:v1");
  for (const name of ["one", "ONE", "default/one", "one:v1", "base"])
    expect((await ask("GET", `/templates/aliases/${encodeURIComponent(name)}`)).status, name).toBe(200);
  for (const name of ["two", "one:v2"]) expect((await ask("GET", `/templates/aliases/${name}`)).status, name).toBe(404);
  for (const name of [":v1", "one:"]) expect((await ask("GET", `/templates/aliases/${name}`)).status, name).toBe(400);
});

test("tags are assigned, listed and removed", async () => {
  const { templateID, buildID } = await ready("one");
  expect(await ask("POST", "/templates/tags", { target: "one", tags: ["Prod", "prod", "v1"] })).toMatchObject({
    status: 201,
    body: { tags: ["prod", "v1"], buildID },
  });
  const listed = await ask("GET", `/templates/${templateID}/tags`);
  expect(listed.body).toEqual(["default", "prod", "v1"].map((tag) => ({ tag, buildID, createdAt: expect.any(String) })));
  expect((await ask("DELETE", "/templates/tags", { name: "one", tags: ["prod", "v1"] })).status).toBe(204);
  expect((await ask("GET", "/templates/one/tags")).body).toHaveLength(1);
  expect((await ask("DELETE", "/templates/tags", { name: "one", tags: ["default"] })).status).toBe(400);
  for (const target of [":v1", "one:"]) expect((await ask("POST", "/templates/tags", { target, tags: ["x"] })).status).toBe(400);
  for (const target of ["two", "one:v9"]) expect((await ask("POST", "/templates/tags", { target, tags: ["x"] })).status).toBe(404);
  for (const tag of ["", "a b", buildID])
    expect((await ask("POST", "/templates/tags", { target: "one", tags: [tag] })).status, tag).toBe(400);
  expect((await ask("DELETE", "/templates/tags", { name: "two", tags: ["x"] })).status).toBe(404);
  expect((await ask("GET", "/templates/base/tags")).body).toMatchObject([{ tag: "default" }]);
});
