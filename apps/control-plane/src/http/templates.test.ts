import {
  buildListSchema,
  buildLogsSchema,
  buildSchema,
  buildStreamServerSchema,
  templateDetailSchema,
  templateListSchema,
  type Build,
} from "@roost/contract";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { randomUUID } from "node:crypto";

import { appendBuildLog, updateBuild } from "../templates/build-store.ts";
import { hostTemplateOf } from "../templates/names.ts";
import { claimOne, end, makeReady } from "../testing/ended-build.ts";
import { World } from "../testing/world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start({ options: { buildsAtOnce: 0, buildFilesMib: 1 } }); // the tests run builds themselves
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());
beforeEach(async () => {
  await world.database.db.deleteFrom("snapshot").execute();
  await world.database.db.deleteFrom("built_template").execute();
  for (const name of world.host.images.templates.keys()) if (name !== "base") world.host.images.templates.delete(name);
});

const recipe = { from: { template: "base" }, steps: [{ kind: "run", command: "true" }] };

async function ask(method: string, path: string, status: number, body?: unknown): Promise<unknown> {
  const answer = await world.request(method, `/v1${path}`, body);
  const text = await answer.text();
  expect(answer.status, text).toBe(status);
  return text === "" ? undefined : JSON.parse(text);
}

const request = async (body: object = {}): Promise<Build> =>
  buildSchema.parse(await ask("POST", "/builds", 202, { name: "one", recipe, ...body }));
async function build(body: object = {}): Promise<Build> {
  const made = await request(body);
  await makeReady(world.database.db, world.host, { defaults: { user: "root", workdir: "/srv", envs: { A: "1" }, startCommand: "serve" } });
  return made;
}
const code = (value: string) => ({ error: { code: value } });

test("a build from its request to a sandbox of its template", async () => {
  const made = await request({ name: "one:v1", tags: ["default"], vcpus: 2, memory_mb: 1024 });
  expect(made).toMatchObject({
    template: "one",
    state: "waiting",
    tags: ["v1", "default"],
    step_count: 1,
    vcpus: 2,
    memory_mb: 1024,
    failure: null,
  });
  expect(await ask("POST", "/sandboxes", 404, { template: "one" })).toMatchObject(code("template_not_found"));
  await makeReady(world.database.db, world.host, {
    vcpus: 2,
    memoryMib: 1024,
    defaults: { user: "root", workdir: "/srv", envs: { A: "1" } },
  });
  const { id } = made;
  expect(buildSchema.parse(await ask("GET", `/builds/${id}`, 200))).toMatchObject({ state: "ready", size_bytes: 12_345, template: "one" });

  const { templates } = templateListSchema.parse(await ask("GET", "/templates", 200));
  expect(templates.map(({ name, kind }) => [name, kind])).toEqual([
    ["base", "base"],
    ["one", "built"],
  ]);
  const detail = templateDetailSchema.parse(await ask("GET", "/templates/one", 200));
  expect(detail).toMatchObject({
    kind: "built",
    build_id: id,
    tags: ["default", "v1"],
    disk_mb: 3072,
    vcpus: 2,
    memory_mb: 1024,
    has_memory: true,
    defaults: { user: "root", workdir: "/srv", envs: { A: "1" } },
  });
  expect(await ask("GET", `/templates/${detail.id}`, 200)).toEqual(detail);
  expect(templateDetailSchema.parse(await ask("GET", "/templates/base", 200))).toMatchObject({ kind: "base", id: null, tag_builds: [] });

  const sandbox = await world.createSandbox({ template: "one:v1" });
  expect(sandbox).toMatchObject({ template: "one:v1", vcpus: 2, memory_mb: 1024, start_path: "restore" });
  expect(world.host.sandboxes.get(sandbox.id)?.spec?.template).toBe(hostTemplateOf(id));
  const list = (await ask("GET", "/sandboxes?template=one:v1", 200)) as { sandboxes: { id: string }[] };
  expect(list.sandboxes.map((listed) => listed.id)).toEqual([sandbox.id]);
  expect(await ask("DELETE", "/templates/one", 409)).toMatchObject(code("template_in_use"));
  await ask("DELETE", `/sandboxes/${sandbox.id}`, 204);
  await ask("DELETE", "/templates/one", 204);
  expect(await ask("GET", "/templates/one", 404)).toMatchObject(code("template_not_found"));
  expect(await ask("GET", `/builds/${id}`, 404)).toMatchObject(code("build_not_found"));
  await expect.poll(() => [...world.host.images.templates.keys()], { timeout: 30_000 }).toEqual(["base"]);
});

test("what hosts call templates of builds means nothing to users", async () => {
  const made = await build();
  const internal = hostTemplateOf(made.id);
  const { templates } = templateListSchema.parse(await ask("GET", "/templates", 200));
  expect(templates.map(({ name }) => name)).not.toContain(internal);
  for (const [method, path, body] of [
    ["POST", "/sandboxes", { template: internal }],
    ["GET", `/templates/${internal}`],
    ["DELETE", `/templates/${internal}`],
    ["GET", `/snapshots/${internal}`],
    ["DELETE", `/snapshots/${internal}`],
  ] as const) {
    const answer = (await ask(method, path, 404, body)) as { error: { code: string; message: string } };
    expect(answer.error.code).toMatch(/^(template|snapshot)_not_found$/);
  }
  const unknown = (await ask("POST", "/sandboxes", 404, { template: "nothing" })) as { error: { message: string } };
  expect(unknown.error.message).not.toContain("build-");
  const { id } = await world.createSandbox();
  expect(await ask("POST", "/snapshots", 400, { sandbox_id: id, name: internal })).toMatchObject(code("request_invalid"));
  expect(await ask("POST", "/builds", 400, { name: internal, recipe })).toMatchObject(code("request_invalid"));
});

test("a name means one thing", async () => {
  await build();
  const { id } = await world.createSandbox();
  for (const name of ["one", "one:v9"]) {
    expect(await ask("POST", "/snapshots", 409, { sandbox_id: id, name })).toMatchObject(code("snapshot_exists"));
  }
  await ask("POST", "/snapshots", 201, { sandbox_id: id, name: "shot:v1" });
  for (const name of ["shot", "base"]) expect(await ask("POST", "/builds", 409, { name, recipe })).toMatchObject(code("template_exists"));
});

test("tags are set and removed", async () => {
  const first = await build();
  const second = await build();
  const detail = async (status: number, body?: object, path = "/templates/one/tags/prod") => ask("PUT", path, status, body);
  expect(await detail(200)).toMatchObject({ tags: ["default", "prod"], tag_builds: [{ build_id: second.id }, { build_id: second.id }] });
  expect(await detail(200, { build_id: first.id })).toMatchObject({
    tag_builds: [{ tag: "default" }, { tag: "prod", build_id: first.id }],
  });
  expect(await detail(200, {}, "/templates/one:prod/tags/other")).toMatchObject({
    tag_builds: [{}, { tag: "other", build_id: first.id }, {}],
  });
  await ask("DELETE", "/templates/one/tags/other", 204);
  expect(await ask("DELETE", "/templates/one/tags/default", 400)).toMatchObject(code("request_invalid"));
  expect(await detail(404, { build_id: "00000000-0000-4000-8000-000000000000" })).toMatchObject(code("build_not_found"));
  expect(await detail(400, {}, `/templates/one/tags/${first.id}`)).toMatchObject(code("request_invalid"));
  expect(await detail(404, {}, "/templates/nothing/tags/x")).toMatchObject(code("template_not_found"));
});

test("builds in pages, by template and by state", async () => {
  for (const name of ["one", "two", "one"]) await request({ name });
  const first = buildListSchema.parse(await ask("GET", "/builds?limit=2", 200));
  expect(first.builds).toHaveLength(2);
  const second = buildListSchema.parse(await ask("GET", `/builds?limit=2&cursor=${first.next_cursor}`, 200));
  expect(second).toMatchObject({ builds: [{ template: expect.any(String) }], next_cursor: null });
  expect(new Set([...first.builds, ...second.builds].map(({ id }) => id)).size).toBe(3);
  expect(buildListSchema.parse(await ask("GET", "/builds?template=one", 200)).builds.map(({ template }) => template)).toEqual([
    "one",
    "one",
  ]);
  expect(buildListSchema.parse(await ask("GET", "/builds?state=ready", 200)).builds).toEqual([]);
  expect(await ask("GET", "/builds?template=nothing", 404)).toMatchObject(code("template_not_found"));
  expect(await ask("GET", "/builds?cursor=x", 400)).toMatchObject(code("request_invalid"));
});

test("a build is cancelled", async () => {
  const waiting = await request();
  expect(await ask("POST", `/builds/${waiting.id}/cancel`, 200)).toMatchObject({ state: "cancelled", is_cancelling: false });
  const building = await request();
  const held = await claimOne(world.database.db);
  expect(await ask("POST", `/builds/${building.id}/cancel`, 200)).toMatchObject({ state: "building", is_cancelling: true });
  await end(world.database.db, held, { state: "cancelled" });
  expect(await ask("POST", `/builds/${building.id}/cancel`, 200)).toMatchObject({ state: "cancelled", is_cancelling: false });
});

test("a log comes in pages, and as it is written", async () => {
  const { db } = world.database;
  const { id } = await request();
  const socket = await world.socket(`/v1/builds/${id}/logs/stream?offset=1`).open();
  const line = (message: string, level: "info" | "warn" = "info") => ({ time: new Date(), level, step: "0", message });
  await appendBuildLog(db, id, [line("a"), line("b", "warn"), line("c")]);
  const page = buildLogsSchema.parse(await ask("GET", `/builds/${id}/logs?limit=2`, 200));
  expect([page.lines.map(({ message }) => message), page.next_offset]).toEqual([["a", "b"], 2]);
  const rest = buildLogsSchema.parse(await ask("GET", `/builds/${id}/logs?limit=2&offset=2`, 200));
  expect([rest.lines, rest.next_offset]).toEqual([[expect.objectContaining({ number: 2, message: "c", step: "0" })], null]);
  const worse = buildLogsSchema.parse(await ask("GET", `/builds/${id}/logs?level=warn&direction=backward`, 200));
  expect(worse.lines.map(({ message }) => message)).toEqual(["b"]);
  const held = await claimOne(db);
  const updated = await updateBuild(db, held, { steps_done: 1 });
  if (updated === undefined) throw new Error("the claim is lost");
  await end(db, updated, { state: "failed", failure: { message: "no", step: "0" } });
  await socket.until("end", 30_000);
  expect(await socket.ended).toMatchObject({ code: 1000 });
  const messages = socket.messages.map((message) => buildStreamServerSchema.parse(message));
  expect(messages[0]).toMatchObject({ type: "build", build: { state: "waiting", template: "one" } });
  expect(messages.flatMap((message) => (message.type === "line" ? [message.line.message] : []))).toEqual(["b", "c"]);
  expect(messages.at(-1)).toMatchObject({ type: "end", build: { state: "failed", failure: { message: "no", step: "0" } } });
});

test("a client that follows a build and goes away, or talks, is let go", async () => {
  const { id } = await request();
  const socket = await world.socket(`/v1/builds/${id}/logs/stream`).open();
  await socket.until("build");
  socket.send({ type: "hello" });
  expect(await socket.ended).toMatchObject({ code: 1008 });
});

test("archives are uploaded once, with their exact length", async () => {
  const hash = "ab".repeat(32);
  const path = `/templates/files/${hash}?name=one:v1`;
  expect(await ask("GET", path, 200)).toEqual({ is_present: false });
  await ask("PUT", path, 204, Buffer.from("archive"));
  expect(await ask("GET", path, 200)).toEqual({ is_present: true });
  expect(await ask("GET", `/templates/files/${hash}?name=two`, 200)).toEqual({ is_present: false });
  const long = await world.request("PUT", `/v1${path}`, Buffer.alloc(600 * 1024));
  expect(await long.json()).toMatchObject(code("request_too_large"));
  const chunked = await world.request("PUT", `/v1${path}`, new Blob(["x"]).stream());
  expect(await chunked.json()).toMatchObject(code("request_invalid"));
  expect(await ask("PUT", `/templates/files/${hash}?name=base`, 409, Buffer.from("x"))).toMatchObject(code("template_exists"));
  expect(await ask("PUT", "/templates/files/zz?name=one", 400, Buffer.from("x"))).toMatchObject(code("request_invalid"));
});

test("a recipe that cannot be is refused, and nothing is recorded", async () => {
  for (const wrong of [
    { from: { stage: "none" } },
    { from: { template: "base" }, steps: [{ kind: "run" }] },
    { from: { image: "https://x" } },
    { from: {} },
    {},
  ]) {
    expect(await ask("POST", "/builds", 400, { name: "one", recipe: wrong })).toMatchObject(code("request_invalid"));
  }
  expect(await ask("GET", "/templates/one", 404)).toMatchObject(code("template_not_found"));
});

test("a build whose request was interrupted is found by who sends it again: there are never two", async () => {
  const { db } = world.database;
  const named = { "idempotency-key": randomUUID() };
  const post = async () => {
    const answer = await world.request("POST", "/v1/builds", { name: "once", recipe }, named);
    return { status: answer.status, build: buildSchema.parse(await answer.json()), replayed: answer.headers.get("roost-replayed") };
  };
  const first = await post();
  expect(await post(), "as it is kept").toEqual({ ...first, replayed: "true" });
  // as one that has died after it had written the build leaves it: nobody ended the operation, and the answer was not kept
  await db
    .updateTable("operation")
    .set({ state: "running", result: null, claimed_by: randomUUID(), time_claim_ends: new Date(0), time_ended: null })
    .where("kind", "=", "build.create")
    .where("idempotency_key", "=", named["idempotency-key"])
    .execute();
  expect(await post(), "once somebody has looked what came of it").toEqual({ ...first, replayed: "true" });
  const { builds } = buildListSchema.parse(await ask("GET", "/builds?template=once", 200));
  expect(builds.map(({ id }) => id)).toEqual([first.build.id]);
}, 60_000);

test("a template is published and taken back by its team; others use it by the team's name", async () => {
  const { id } = await build({ name: "shared" });
  const publish = async (isPublic: boolean) =>
    templateDetailSchema.parse(await ask("PATCH", "/templates/shared", 200, { is_public: isPublic }));
  expect(templateDetailSchema.parse(await ask("GET", "/templates/shared", 200))).toMatchObject({ is_public: false });
  expect(await publish(true)).toMatchObject({ name: "shared", is_public: true, build_id: id });
  expect(await publish(true)).toMatchObject({ is_public: true });
  expect(await publish(false)).toMatchObject({ is_public: false });
  expect(await ask("PATCH", "/templates/nosuch", 404, { is_public: true })).toMatchObject(code("template_not_found"));
  expect(await ask("PATCH", "/templates/base", 404, { is_public: true })).toMatchObject(code("template_not_found"));
  await ask("PATCH", "/templates/shared:default", 400, { is_public: true });
  await ask("PATCH", "/templates/shared", 400, {});
  await ask("PATCH", "/templates/shared", 400, { is_public: true, name: "other" });
});
