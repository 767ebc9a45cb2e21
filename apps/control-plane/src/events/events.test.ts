import { poll, silentLogger } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { forgetEvents, type NewEvent } from "../db/events.ts";
import { ServiceWorld } from "../testing/service-world.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { Events } from "./events.ts";

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
  const { events: listed } = await events.list({ limit: 10 });
  expect(listed.map(({ message }) => message).sort()).toEqual(["with", "without"]);
});

test("pages go from the newest to the oldest and miss none, also of one instant", async () => {
  for (let index = 0; index < 20; index += 1) await events.record(eventOf(index));
  const seen: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await events.list({ limit: 3, ...(cursor === undefined ? {} : { cursor }) });
    seen.push(...page.events.map(({ message }) => message));
    cursor = page.next_cursor ?? undefined;
  } while (cursor !== undefined);
  expect(seen).toEqual(Array.from({ length: 20 }, (_, index) => `number ${19 - index}`));
  const ofOne = await events.list({ limit: 100, sandbox_id: "i1" });
  expect(ofOne.events).toHaveLength(10);
  expect(ofOne.events.every(({ sandbox_id }) => sandbox_id === "i1")).toBe(true);
});

test("only so many are kept, and none for longer than asked", async () => {
  for (let index = 0; index < 20; index += 1) await events.record(eventOf(index));
  expect(await forgetEvents(database.db, new Date(0), 12)).toBe(8);
  expect((await events.list({ limit: 100 })).events.at(-1)?.message).toBe("number 8");
  expect(await forgetEvents(database.db, new Date(1_767_225_600_000 + 5), 100)).toBe(7);
  expect((await events.list({ limit: 100 })).events.map(({ message }) => message)).toEqual(
    [19, 18, 17, 16, 15].map((index) => `number ${index}`),
  );
});
