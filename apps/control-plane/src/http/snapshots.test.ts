import { randomUUID } from "node:crypto";

import {
  checkpointSchema,
  eventListSchema,
  forkSchema,
  generationListSchema,
  sandboxSchema,
  snapshotListSchema,
  snapshotSchema,
  templateListSchema,
} from "@roost/contract";
import { poll } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import { hostError } from "../testing/fake-host.ts";
import { World } from "../testing/world.ts";

/** Saving sandboxes over HTTP, and what needs the guest of a paused one. */

let world: World;
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

async function ask(method: string, path: string, status: number, body?: unknown): Promise<unknown> {
  const answer = await world.request(method, `/v1${path}`, body);
  const text = await answer.text();
  expect(answer.status, text).toBe(status);
  return text === "" ? undefined : (JSON.parse(text) as unknown);
}
const pause = async (id: string) => sandboxSchema.parse(await ask("POST", `/sandboxes/${id}/pause`, 200));

test("a sandbox is saved, looked at, rolled back and forked, each answer of the promised form", async () => {
  const { id } = await world.createSandbox({ metadata: { life: "saved" }, checkpoint_interval_sec: 30 });
  const path = `/sandboxes/${id}`;
  expect(sandboxSchema.parse(await ask("GET", path, 200))).toMatchObject({
    start_path: "restore",
    current_generation: null,
    has_memory: false,
    paused_at: null,
    notice: null,
    auto_resume: false,
    checkpoint_interval_sec: 30,
  });
  const paused = await pause(id);
  expect(paused).toMatchObject({ state: "paused", current_generation: 1, has_memory: true, paused_at: expect.any(String) });
  expect(await pause(id)).toMatchObject({ state: "paused" });
  expect(sandboxSchema.parse(await ask("POST", `${path}/resume`, 200, { timeout_sec: 9 }))).toMatchObject({
    state: "running",
    timeout_sec: 9,
    paused_at: null,
  });
  expect(checkpointSchema.parse(await ask("POST", `${path}/checkpoint`, 201))).toMatchObject({
    sandbox: { id, state: "running", current_generation: 2 },
    generation: { number: 2, kind: "checkpoint", is_current: true },
  });
  const listed = generationListSchema.parse(await ask("GET", `${path}/generations`, 200));
  expect(listed.generations.map(({ number }) => number)).toEqual([2, 1]);
  expect(sandboxSchema.parse(await ask("POST", `${path}/rollback`, 200, { generation: 1 }))).toMatchObject({ current_generation: 1 });
  expect(await ask("POST", `${path}/rollback`, 404, { generation: 7 })).toMatchObject({ error: { code: "generation_not_found" } });
  world.host.images.failingChildren.set(1, { code: "capacity_exhausted", message: "no room" });
  const { results } = forkSchema.parse(await ask("POST", `${path}/fork`, 201, { count: 2 }));
  expect(results).toMatchObject([
    { sandbox: { state: "running", metadata: { life: "saved" } } },
    { error: { code: "capacity_exhausted", message: "no room" } },
  ]);
});

test("a snapshot from its making to its end", async () => {
  const { id } = await world.createSandbox();
  const made = snapshotSchema.parse(await ask("POST", "/snapshots", 201, { sandbox_id: id, name: "my-snapshot.1" }));
  expect(made).toMatchObject({ name: "my-snapshot.1", source_sandbox_id: id, vcpus: 1, memory_mb: 512 });
  expect(snapshotListSchema.parse(await ask("GET", "/snapshots", 200)).snapshots).toEqual([made]);
  expect(snapshotSchema.parse(await ask("GET", "/snapshots/my-snapshot.1", 200))).toEqual(made);
  expect(templateListSchema.parse(await ask("GET", "/templates", 200)).templates).toMatchObject([
    { name: "base", kind: "base", vcpus: null },
    { name: "my-snapshot.1", kind: "snapshot", vcpus: 1, memory_mb: 512, has_memory: true },
  ]);
  expect(await ask("POST", "/snapshots", 409, { sandbox_id: id, name: "my-snapshot.1" })).toMatchObject({
    error: { code: "snapshot_exists" },
  });
  const user = await world.createSandbox({ template: "my-snapshot.1" });
  expect(await ask("DELETE", "/snapshots/my-snapshot.1", 409)).toMatchObject({ error: { code: "snapshot_in_use" } });
  await ask("DELETE", `/sandboxes/${user.id}`, 204);
  await ask("DELETE", "/snapshots/my-snapshot.1", 204);
  expect(await ask("GET", "/snapshots/my-snapshot.1", 404)).toMatchObject({ error: { code: "snapshot_not_found" } });
  expect(await ask("GET", "/snapshots/no%20name", 400)).toMatchObject({ error: { code: "request_invalid" } });
});

test("limits are said before anything is done", async () => {
  const { id } = await world.createSandbox();
  for (const [path, body] of [
    [`/sandboxes/${id}/fork`, { count: 0 }],
    [`/sandboxes/${id}/fork`, { count: 101 }],
    [`/sandboxes/${id}/fork`, {}],
    [`/sandboxes/${id}/rollback`, { generation: 0 }],
    [`/sandboxes/${id}/pause`, { memory: "no" }],
    [`/sandboxes/${id}/resume`, { timeout_sec: -1 }],
    ["/snapshots", { sandbox_id: id, name: "-bad" }],
    ["/sandboxes", { checkpoint_interval_sec: 9 }],
  ] as const) {
    expect(await ask("POST", path, 400, body)).toMatchObject({ error: { code: "request_invalid" } });
  }
  await ask("POST", "/sandboxes", 201, { checkpoint_interval_sec: 10 });
});

test("events are listed for all and for one, page after page", async () => {
  const { id } = await world.createSandbox();
  for (const kind of ["sandbox.paused", "sandbox.resumed", "sandbox.checkpointed"] as const) {
    world.host.happen({ kind, sandboxId: id, message: `${kind}!`, detail: { generation: "1" } });
  }
  world.host.happen({ kind: "template.reimaged", template: "base", message: "made anew" });
  const all = await poll({ what: "the events", timeoutMs: 30_000, intervalMs: 5 }, async () => {
    const { events } = eventListSchema.parse(await ask("GET", "/events", 200));
    return events[0]?.kind === "template.reimaged" ? events : undefined;
  });
  expect(all[0]).toMatchObject({ sandbox_id: null, template: "base" });
  expect(all.length).toBeGreaterThanOrEqual(4);
  const first = eventListSchema.parse(await ask("GET", `/events?sandbox_id=${id}&limit=2`, 200));
  expect(first.events.map(({ kind }) => kind)).toEqual(["sandbox.checkpointed", "sandbox.resumed"]);
  const second = eventListSchema.parse(await ask("GET", `/events?sandbox_id=${id}&limit=2&cursor=${first.next_cursor}`, 200));
  expect(second).toMatchObject({ events: [{ kind: "sandbox.paused", detail: { generation: "1" } }], next_cursor: null });
  expect(await ask("GET", "/events?cursor=nonsense", 400)).toMatchObject({ error: { code: "request_invalid" } });
});

test("what needs the guest of a paused sandbox with auto_resume gets it, one resume for all", async () => {
  const { id } = await world.createSandbox({ auto_resume: true });
  await pause(id);
  const before = world.host.images.automaticResumes;
  const socket = world.socket(`/v1/sandboxes/${id}/exec/stream`);
  const [exec, write, list] = await Promise.all([
    world.exec(id, { cmd: "echo", args: ["awake"] }),
    world.request("PUT", `/v1/sandboxes/${id}/files?path=/auto`, "data"),
    world.request("GET", `/v1/sandboxes/${id}/processes`),
    socket.open().then((open) => open.send({ type: "start", cmd: "echo", args: ["socket"] })),
  ]);
  expect(exec).toMatchObject({ status: 200, body: { stdout: "awake\n" } });
  expect([write.status, list.status]).toEqual([200, 200]);
  await Promise.all([write.text(), list.text()]);
  expect(await socket.until("exit")).toMatchObject({ exit_code: 0 });
  expect(socket.text("stdout")).toBe("socket\n");
  expect(world.host.images.automaticResumes - before).toBe(1);
});

test("without auto_resume they are told how to resume it, over HTTP and over a socket", async () => {
  const { id } = await world.createSandbox();
  await pause(id);
  const { status, body } = await world.exec(id, { cmd: "true" });
  expect(status).toBe(409);
  expect(body).toMatchObject({ error: { code: "sandbox_wrong_state", message: expect.stringContaining(`roost resume ${id}`) } });
  const socket = await world.socket(`/v1/sandboxes/${id}/pty`).open();
  expect(await socket.until("error")).toMatchObject({ code: "sandbox_wrong_state", fatal: true });
  expect(await socket.ended).toEqual({ code: 1008 });
});

test("an image that cannot be restored is said with what still can be done", async () => {
  const { id } = await world.createSandbox({ auto_resume: true });
  await pause(id);
  const why = "the CPU is another; resume with memory=false brings the files back";
  world.host.images.failures.set("resumeSandbox", hostError("image_incompatible", why));
  const { status, body } = await world.exec(id, { cmd: "true" });
  expect([status, body]).toMatchObject([409, { error: { code: "image_incompatible", message: why } }]);
  expect(await ask("POST", `/sandboxes/${id}/resume`, 200, { memory: false })).toMatchObject({ state: "running", start_path: "boot" });
});

test("a command that runs through a checkpoint does not notice; one that is paused with its sandbox is told", async () => {
  const { id } = await world.createSandbox();
  const socket = await world.socket(`/v1/sandboxes/${id}/exec/stream`).open();
  socket.send({ type: "start", cmd: "sleep", args: ["60"] });
  await socket.until("start");
  await ask("POST", `/sandboxes/${id}/checkpoint`, 201);
  expect(socket.messages.map(({ type }) => type)).toEqual(["start"]);
  await pause(id);
  expect(await socket.until("error")).toMatchObject({ code: "guest_unreachable", data: expect.stringContaining("paused") });
  world.guest.killAll();
});

test("what a broken connection means is said when the host says it, which it does a moment later", async () => {
  const { id } = await world.createSandbox();
  const open = async (path: string) => world.socket(`/v1/sandboxes/${id}/${path}`).open();
  const sockets = [await open("exec/stream"), await open("files/watch?path=/tmp")];
  sockets[0]?.send({ type: "start", cmd: "sleep", args: ["60"] });
  for (const socket of sockets) await socket.until("start");
  for (const tunnel of world.host.openTunnels) tunnel.destroy();
  await pause(id);
  for (const socket of sockets)
    expect(await socket.until("error")).toMatchObject({ code: "guest_unreachable", data: expect.stringContaining("paused or ended") });
  world.guest.killAll();
});

test(
  "a command in the background that goes on after a resume is followed again: that is what makes it activity",
  { timeout: 60_000 },
  async () => {
    await using other = await World.start(); // its guest is nobody else's
    const { id } = await other.createSandbox();
    const started = await other.exec(id, { cmd: "sleep", args: ["60"], background: true, tag: "job" });
    expect(started.status).toBe(202);
    const { pid } = started.body as unknown as { pid: number };
    for (const change of ["pause", "resume"]) {
      expect(other.guest.followed).toEqual([]);
      expect((await other.request("POST", `/v1/sandboxes/${id}/${change}`)).status).toBe(200);
    }
    const isFollowed = () => (other.guest.followed.includes(pid) ? true : undefined);
    await poll({ what: "somebody to follow the command", timeoutMs: 20_000 }, isFollowed);
  },
);

test("a snapshot whose maker died has its name no more, and is made by who sends the request again; one that was ready is found", async () => {
  const { db } = world.database;
  const { id } = await world.createSandbox();
  const key = randomUUID();
  const post = async () => {
    const answer = await world.request("POST", "/v1/snapshots", { sandbox_id: id, name: "orphaned" }, { "idempotency-key": key });
    return { status: answer.status, replayed: answer.headers.get("roost-replayed"), body: (await answer.json()) as object };
  };
  /** As one that has died leaves it: nobody ended the operation, and the answer was not kept. */
  const die = async () =>
    db
      .updateTable("operation")
      .set({ state: "running", result: null, claimed_by: randomUUID(), time_claim_ends: new Date(0), time_ended: null })
      .where("kind", "=", "snapshot.create")
      .where("idempotency_key", "=", key)
      .execute();
  const first = await post();
  expect(first.status).toBe(201);
  const before = await db.selectFrom("snapshot").select("id").where("name", "=", "orphaned").executeTakeFirstOrThrow();
  await die();
  expect(await post(), "it was ready").toEqual({ ...first, replayed: "true" });
  await die();
  await db.updateTable("snapshot").set({ state: "creating", time_created: new Date() }).where("name", "=", "orphaned").execute();
  expect(await post(), "it was not: once the first is given up, this one makes it").toMatchObject({ status: 201, replayed: null });
  const ready = await db.selectFrom("snapshot").select("id").where("name", "=", "orphaned").where("state", "=", "ready").execute();
  expect(ready).toHaveLength(1);
  expect(ready[0]?.id).not.toBe(before.id);
}, 60_000);
