import { randomUUID } from "node:crypto";

import { poll, silentLogger } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import { systemCaller } from "../accounts/caller.ts";
import type { Database } from "../db/database.ts";
import { publishEvents } from "../db/event-stream.ts";
import { forgetEvents, forgottenUntil, type NewEvent } from "../db/events.ts";
import { insertSandbox } from "../db/sandboxes.ts";
import { insertSnapshot } from "../db/snapshots.ts";
import { plainSandbox } from "../testing/plain-sandbox.ts";
import { ServiceWorld } from "../testing/service-world.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { Events } from "./events.ts";
import { emit } from "./outbox.ts";

let database: Database;
let world: ServiceWorld;
let events: Events;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  await database.db.deleteFrom("event").execute();
  world = await ServiceWorld.start(database);
  events = new Events(database.db, silentLogger);
});
afterEach(async () => world[Symbol.asyncDispose]());

const eventOf = (index: number, more: Partial<NewEvent> = {}): NewEvent => ({
  id: `event${index}`,
  hostId: "host-1",
  time: new Date(1_767_225_600_000 + Math.trunc(index / 3)),
  kind: "sandbox.paused",
  sandboxId: `i${index % 2}`,
  template: null,
  message: `number ${index}`,
  detail: {},
  ...more,
});
const other = "gother000000000000000";
const admin = { teamId: "default", isAdmin: true };
const told = (count: number) =>
  poll({ what: `${count} events`, timeoutMs: 30_000, intervalMs: 2 }, () => (world.told.length >= count ? world.told : undefined));

test("what a host tells arrives as it is", async () => {
  world.host.happen({ kind: "sandbox.vm_lost", sandboxId: "i1", message: "the VM ended\0!", detail: { generation: "3" } });
  world.host.happen({ kind: "template.reimaged", template: "base", message: "the CPU is another" });
  const [lost, reimaged] = await told(2);
  expect(lost).toMatchObject({
    hostId: "host-1",
    kind: "sandbox.vm_lost",
    sandboxId: "i1",
    template: null,
    message: "the VM ended\u{FFFD}!",
    detail: { generation: "3" },
  });
  expect(reimaged).toMatchObject({ kind: "template.reimaged", sandboxId: null, template: "base" });
});

test("events of a kind that is not known are left out, and the watch goes on", async () => {
  world.host.happen({ kind: "sandbox.invented", message: "?" });
  world.host.happen({ kind: "sandbox.paused", message: "paused" });
  expect((await told(1)).map(({ kind }) => kind)).toEqual(["sandbox.paused"]);
});

test("what happened while nobody watched is told later, and remembered once, with an id or without", async () => {
  world.host.happen({ kind: "sandbox.paused", sandboxId: "i1", message: "with" });
  world.host.happen({ kind: "sandbox.paused", sandboxId: "i1", message: "without", eventId: "" });
  await told(2);
  world.host.cutWatches();
  for (const event of await told(4)) await events.record(event);
  const { events: listed } = await events.list(admin, { limit: 10 });
  expect(listed.map(({ message }) => message).sort()).toEqual(["with", "without"]);
});

test("pages go from the newest to the oldest and miss none, also of one instant", async () => {
  for (let index = 0; index < 20; index += 1) await events.record(eventOf(index));
  const seen: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await events.list(admin, { limit: 3, ...(cursor === undefined ? {} : { cursor }) });
    seen.push(...page.events.map(({ message }) => message));
    cursor = page.next_cursor ?? undefined;
  } while (cursor !== undefined);
  expect(seen).toEqual(Array.from({ length: 20 }, (_, index) => `number ${19 - index}`));
  const ofOne = await events.list(admin, { limit: 100, sandbox_id: "i1" });
  expect(ofOne.events).toHaveLength(10);
  expect(ofOne.events.every(({ sandbox_id }) => sandbox_id === "i1")).toBe(true);
});

test("only so many are kept, and none for longer than asked", async () => {
  for (let index = 0; index < 20; index += 1) await events.record(eventOf(index));
  const now = new Date();
  expect(await forgetEvents(database.db, new Date(0), 12), "nothing that is not published").toBe(0);
  expect(await publishEvents(database.db, { now, timeExpires: now })).toBe(20);
  expect(await forgetEvents(database.db, new Date(0), 12)).toBe(8);
  expect((await events.list(admin, { limit: 100 })).events.at(-1)?.message).toBe("number 8");
  expect(await forgetEvents(database.db, new Date(1_767_225_600_000 + 5), 100)).toBe(7);
  const { events: left } = await events.list(admin, { limit: 100 });
  expect(left.map(({ message }) => message)).toEqual([19, 18, 17, 16, 15].map((index) => `number ${index}`));
  expect(await forgottenUntil(database.db, admin)).toBe((left.at(-1)?.position ?? 0) - 1);
  expect(await forgottenUntil(database.db, { teamId: "default", isAdmin: false }), "none of these were the team's").toBe(0);
});

test("one sees what is of one's team; what is nobody's only who runs the platform", async () => {
  const { db } = database;
  await db.insertInto("team").values({ id: other, name: "other", slug: "other", time_created: new Date() }).execute();
  const own = await world.create();
  await events.record(eventOf(1, { sandboxId: own.id, message: "own" }));
  await events.record(eventOf(2, { sandboxId: null, template: "base", message: "nobody's" }));
  await emit(db, { kind: "team.created", teamId: other, subject: { kind: "team", id: other }, actor: systemCaller(other).actor });
  const seen = async (teamId: string, isAdmin: boolean) =>
    (await events.list({ teamId, isAdmin }, { limit: 10 })).events
      .filter(({ kind }) => kind !== "sandbox.created")
      .map(({ message }) => message);
  expect(await seen("default", false)).toEqual(["own"]);
  expect((await seen("default", true)).sort()).toEqual(["nobody's", "own"]);
  expect(await seen(other, false)).toEqual([`team ${other}: created`]);
  expect((await events.list({ teamId: other, isAdmin: false }, { limit: 10, sandbox_id: own.id })).events).toEqual([]);
});

test("what happens to a sandbox that works for a build is not remembered: its log tells it", async () => {
  const row = await world.create();
  await database.db.updateTable("sandbox").set({ for_build_id: randomUUID() }).where("id", "=", row.id).execute();
  await events.record(eventOf(1, { sandboxId: row.id, message: "hidden" }));
  expect((await events.list(admin, { limit: 10 })).events.map(({ message }) => message)).not.toContain("hidden");
});

test("a host tells of its own sandboxes and templates only", async () => {
  const { db } = database;
  const row = await world.create();
  await events.record(eventOf(1, { hostId: "host-2", sandboxId: row.id, kind: "sandbox.failed", message: "forged" }));
  // told before there was a record of the sandbox: whose it is is known only when it is published
  await events.record(eventOf(2, { hostId: "host-2", sandboxId: "ilater", kind: "sandbox.failed", message: "forged early" }));
  const sizes = { vcpus: 1, memoryMib: 512, diskSizeMib: 1_000, timeoutSec: 0, checkpointIntervalSec: 0 };
  const mine = { teamId: "default", hostId: "host-1", template: "base", accessToken: "token", metadata: {}, autoResume: false };
  await insertSandbox(db, { ...plainSandbox, ...sizes, ...mine, templateSnapshotId: null, id: "ilater", timeCreated: new Date() });
  const now = new Date();
  await insertSnapshot(
    db,
    {
      id: randomUUID(),
      teamId: "default",
      name: "mine",
      hostId: "host-1",
      hostTemplate: "snapshot-1",
      hasMemory: true,
      sourceSandboxId: "ilater",
      timeCreated: now,
    },
    { replace: false, waitMsMax: 0 },
  );
  await events.record(eventOf(3, { hostId: "host-2", sandboxId: null, template: "snapshot-1", kind: "template.stale", message: "forged" }));
  await events.record(eventOf(4, { sandboxId: null, template: "snapshot-1", kind: "template.stale", message: "true" }));
  await publishEvents(db, { now, timeExpires: now });
  const seen = (await events.list({ teamId: "default", isAdmin: false }, { limit: 10 })).events;
  expect(seen.filter(({ kind }) => kind !== "sandbox.created").map(({ message, template }) => [message, template])).toEqual([
    ["true", "mine"],
  ]);
});

test("what is yet to come has happened now at the latest: a host's clock that is ahead makes no event last", async () => {
  const now = new Date("2026-01-02T00:00:00Z");
  const early = new Events(database.db, silentLogger, () => now);
  await early.record(eventOf(1, { time: new Date("2038-01-01T00:00:00Z"), message: "ahead" }));
  await early.record(eventOf(2, { time: new Date("2026-01-01T00:00:00Z"), message: "past" }));
  const { events: listed } = await early.list(admin, { limit: 10 });
  expect(listed.map(({ message, time }) => [message, time])).toEqual([
    ["ahead", now.toISOString()],
    ["past", "2026-01-01T00:00:00.000Z"],
  ]);
});

test("an event is told if its transaction is committed, and not if it is not", async () => {
  const { db } = database;
  const cordoned = {
    kind: "host.cordoned",
    teamId: null,
    subject: { kind: "host", id: "h1" },
    actor: systemCaller("default").actor,
  } as const;
  const failing = db.transaction().execute(async (transaction) => {
    await emit(transaction, cordoned);
    throw new Error("undone");
  });
  await expect(failing).rejects.toThrow("undone");
  expect((await events.list(admin, { limit: 10 })).events).toEqual([]);
  await db.transaction().execute(async (transaction) => emit(transaction, { ...cordoned, detail: { why: "repairs" } }));
  expect((await events.list(admin, { limit: 10 })).events).toMatchObject([
    {
      kind: "host.cordoned",
      subject: { kind: "host", id: "h1" },
      actor: { kind: "system" },
      message: "host h1: cordoned",
      detail: { why: "repairs" },
    },
  ]);
});

test("a host is asked for what came after the event of its own that was heard last", async () => {
  expect(await events.lastOf("host-1")).toBeUndefined();
  for (const index of [1, 2, 3]) await events.record(eventOf(index, { sandboxId: null, template: "base", kind: "template.reimaged" }));
  await events.record(eventOf(4, { hostId: "host-2", sandboxId: null, template: "base", kind: "template.reimaged" }));
  expect(await events.lastOf("host-1")).toBe("event3");

  world.lastEventId = "event3";
  world.host.cutWatches();
  await poll({ what: "the next watch", timeoutMs: 30_000, intervalMs: 2 }, () => (world.host.heardBefore.length === 2 ? true : undefined));
  expect(world.host.heardBefore).toEqual(["", "event3"]);
});
