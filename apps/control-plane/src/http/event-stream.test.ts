import { mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { poll, silentLogger } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import { systemCaller } from "../accounts/caller.ts";
import { createControlPlane } from "../control-plane.ts";
import { forgetEvents } from "../db/events.ts";
import { emit } from "../events/outbox.ts";
import { controlPlaneOptions } from "../options.ts";
import { TestEventSource } from "../testing/event-source.ts";
import { World } from "../testing/world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start();
  await allPublished();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

/** What happened so far is no news to those who follow from now on: it is published, and the control plane has seen that it is. */
async function allPublished(): Promise<void> {
  await poll({ what: "the publishing of all events", timeoutMs: 30_000 }, async () => {
    const events = await world.database.db.selectFrom("event").select("position").execute();
    if (events.some(({ position }) => position === null)) return undefined;
    await using stream = await (await open()).opened();
    return events.every(({ position }) => Number(position) <= Number(stream.lastId)) ? true : undefined;
  });
}

const { actor } = systemCaller("default");
const happen = async (sandboxId: string, message: string, teamId: string | null = "default") =>
  emit(world.database.db, { kind: "sandbox.paused", teamId, subject: { kind: "sandbox", id: sandboxId }, actor, message });
const open = async (query = "", headers: Record<string, string> = {}) =>
  TestEventSource.open(`${world.url}/v1/events/stream${query}`, { "x-api-key": world.key, ...headers });

test("what happens is told as it happens, with its position as id", async () => {
  await using stream = await (await open("?kinds=sandbox.paused")).opened(); // the world's own events may come until now
  expect(stream.status).toBe(200);
  expect(stream.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
  expect(stream.headers.get("cache-control")).toBe("no-store");
  await happen("i1", "one");
  await happen("i2", "two");
  expect(await stream.until(2)).toEqual(["one", "two"]);
  for (const { id, data } of stream.events) expect(id).toBe(String(data["position"]));
  expect(stream.events[0]?.data).toMatchObject({ kind: "sandbox.paused", sandbox_id: "i1", actor: { kind: "system" } });
});

test("who comes back with the last id misses nothing and gets nothing twice, also when nothing had come yet", async () => {
  const first = await (await open()).opened();
  await first[Symbol.asyncDispose](); // before anything happened: it has only the beginning's position
  await happen("i1", "a");
  await happen("i1", "b");
  const second = await open("", { "last-event-id": first.lastId });
  expect(await second.until(2)).toEqual(["a", "b"]);
  await second[Symbol.asyncDispose]();
  await happen("i1", "c");
  await using third = await open("", { "last-event-id": second.lastId });
  await happen("i1", "d");
  expect(await third.until(2)).toEqual(["c", "d"]);
  await using query = await open(`?after=${second.lastId}`);
  expect(await query.until(2)).toEqual(["c", "d"]);
});

test("one may ask for a sandbox or kinds", async () => {
  await using ofOne = await (await open("?sandbox_id=i7")).opened();
  await using ofKind = await (await open("?kinds=template.*,host.cordoned")).opened();
  await happen("i6", "other");
  await happen("i7", "mine");
  await emit(world.database.db, { kind: "host.cordoned", teamId: null, subject: { kind: "host", id: "h1" }, actor, message: "cordoned" });
  expect(await ofOne.until(1)).toEqual(["mine"]);
  expect(await ofKind.until(1), "the world's key is of an admin").toEqual(["cordoned"]);
});

test("events of another team are not told", async () => {
  const team = "gother000000000000000";
  const { db } = world.database;
  await db.insertInto("team").values({ id: team, name: "other", slug: "other", time_created: new Date() }).execute();
  await using stream = await (await open()).opened();
  await happen("i1", "theirs", team);
  await happen("i1", "ours");
  expect(await stream.until(1)).toEqual(["ours"]);
  await using resumed = await open("?after=0");
  await poll({ what: "ours", timeoutMs: 30_000 }, () => (resumed.events.some(({ data }) => data.message === "ours") ? true : undefined));
  expect(resumed.events.map(({ data }) => data.message)).not.toContain("theirs");
});

test("what was forgotten is not passed over in silence", async () => {
  await using before = await (await open()).opened();
  await happen("i1", "forgotten 1");
  await happen("i1", "forgotten 2");
  await before.until(2);
  const after = String(Number(before.events[0]?.id) - 1);
  await forgetEvents(world.database.db, new Date(Date.now() + 1_000), 100_000);
  await using remembered = await open("", { "last-event-id": after });
  expect(await remembered.until(2), "this process has them still").toEqual(["forgotten 1", "forgotten 2"]);

  const dir = await mkdtemp(join(tmpdir(), "roost-fresh-"));
  const options = { ...controlPlaneOptions.read({}), port: 0, drainTimeoutSec: 1, dir };
  const fresh = await createControlPlane(options, { hosts: [], database: world.database, log: silentLogger });
  try {
    const { url } = await fresh.listen();
    const openThere = async (id: string) =>
      TestEventSource.open(`${url}/v1/events/stream`, { "x-api-key": world.key, "last-event-id": id });
    await using stream = await (await openThere(after)).opened();
    await happen("i1", "kept");
    expect(await stream.until(1)).toEqual(["kept"]);
    expect(stream.messages[0]).toMatchObject({ type: "gap", data: { after: Number(after), until: Number(before.events[1]?.id) } });
    await using foreign = await (await openThere("999999999")).opened();
    expect(foreign.messages[0], "a position of another database").toMatchObject({
      type: "gap",
      data: { after: 0, until: Number(stream.events[0]?.id) },
    });
  } finally {
    await fresh.close();
    await rm(dir, { recursive: true, force: true });
  }
});

test("it is refused without a key, with a wrong position, with an unknown field; a HEAD does not hang", async () => {
  const status = async (path: string, headers: Record<string, string> = {}) =>
    (await world.request("GET", path, undefined, headers)).status;
  expect((await fetch(`${world.url}/v1/events/stream`)).status).toBe(401);
  expect(await status("/v1/events/stream", { "last-event-id": "abc" })).toBe(400);
  expect(await status("/v1/events/stream?after=-1")).toBe(400);
  expect(await status("/v1/events/stream?cursor=x")).toBe(400);
  expect((await world.request("HEAD", "/v1/events/stream")).status).toBe(200);
});

test("who is no admin of the platform any more is cut off: the stream was of what admins may see", async () => {
  const { row, key } = await world.controlPlane.apiKeys.create(systemCaller("default"), {
    name: "admin",
    scopes: ["events:read", "admin"],
    expiresInSec: null,
  });
  await allPublished();
  await using stream = await (await open("", { "x-api-key": key })).opened();
  await emit(world.database.db, { kind: "host.cordoned", teamId: null, subject: { kind: "host", id: "h1" }, actor, message: "cordoned" });
  expect(await stream.until(1)).toEqual(["cordoned"]);
  await world.database.db.updateTable("api_key").set({ is_admin: false }).where("id", "=", row.id).execute();
  await poll({ what: "the end of the stream", timeoutMs: 30_000 }, () => (stream.isEnded ? true : undefined));
  await using after = await (await open("", { "x-api-key": key })).opened();
  expect(after.status).toBe(200);
});

test("it ends when the key is revoked", async () => {
  const { row, key } = await world.controlPlane.apiKeys.create(systemCaller("default"), {
    name: "short",
    scopes: ["events:read"],
    expiresInSec: null,
  });
  await using stream = await (await open("", { "x-api-key": key })).opened();
  await happen("i1", "seen");
  await stream.until(1);
  await world.controlPlane.apiKeys.revoke(systemCaller("default"), row.id);
  await poll({ what: "the end of the stream", timeoutMs: 30_000 }, () => (stream.isEnded ? true : undefined));
  expect((await open("", { "x-api-key": key })).status).toBe(401);
});

test("who does not read holds nobody up, and costs no more than the buffers of a connection", async () => {
  const { hostname, port } = new URL(world.url);
  const socket = connect(Number(port), hostname);
  socket.pause();
  socket.write(`GET /v1/events/stream HTTP/1.1\r\nhost: x\r\nx-api-key: ${world.key}\r\n\r\n`);
  await using reader = await (await open()).opened();
  const long = "x".repeat(4_000);
  for (let index = 0; index < 200; index += 1) await happen("i1", `${index} ${long}`);
  expect((await reader.until(200)).at(-1)).toMatch(/^199 /);
  socket.destroy();
});

test("a shutdown ends streams at once", async () => {
  await using other = await World.start();
  const stream = await TestEventSource.open(`${other.url}/v1/events/stream`, { "x-api-key": other.key });
  await stream.opened();
  await other.controlPlane.drain();
  await poll({ what: "the end of the stream", timeoutMs: 30_000 }, () => (stream.isEnded ? true : undefined));
});
