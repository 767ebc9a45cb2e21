import type { ServerResponse } from "node:http";

import { hour, minute, second } from "@roost/kit";
import { Webhook } from "standardwebhooks";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { forgetEvents } from "../db/events.ts";
import { giveUpDeliveries } from "../db/deliveries.ts";
import { emit } from "../events/outbox.ts";
import { ChannelWorld } from "../testing/channel-world.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { deliveryTimeoutMs, leaseMs } from "./attempt-times.ts";
import type { Deliverer } from "./deliverer.ts";

let database: Database;
let world: ChannelWorld;
let deliverer: Deliverer;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  world = await ChannelWorld.start(database);
  deliverer = world.deliverer();
});
afterEach(async () => world[Symbol.asyncDispose]());

const rowsOf = async (channelId: string) =>
  database.db.selectFrom("delivery").selectAll().where("channel_id", "=", channelId).orderBy("position").execute();

/** Whether somebody in the team is an admin of the platform. */
async function setAdmin(isAdmin: boolean): Promise<void> {
  const { db } = database;
  const now = new Date();
  const user = { id: "uadmin00000000000000a", email: "admin@example.org", name: "admin", is_admin: isAdmin, time_created: now };
  await db
    .insertInto("user_account")
    .values({ ...user, password_hash: null, time_email_confirmed: now, time_deactivated: null, time_deleted: null })
    .onConflict((conflict) => conflict.column("id").doUpdateSet({ is_admin: isAdmin }))
    .execute();
  await db
    .insertInto("membership")
    .values({ team_id: "default", user_id: "uadmin00000000000000a", role: "owner", time_created: now })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

test("an event arrives signed, under an id of its own, and is not sent again", async () => {
  const { channel, secret } = await world.webhook("hook");
  await world.happen("i1", "one");
  expect(await world.deliver(deliverer)).toBe(1);
  expect(await world.deliver(deliverer)).toBe(0);
  const [request] = world.receiver.received;
  const signed = { ...request?.headers } as Record<string, string>;
  const [row] = await rowsOf(channel.id);
  expect(signed["webhook-id"]).toBe(row?.id);
  // the library checks the time, too: the world's clock is elsewhere
  const at = Number(signed["webhook-timestamp"]);
  expect(at).toBe(world.timeMs / second);
  expect(new Webhook(secret ?? "").sign(String(row?.id), new Date(at * second), request?.body ?? "")).toBe(signed["webhook-signature"]);
  expect(JSON.parse(request?.body ?? "")).toMatchObject({
    type: "sandbox.paused",
    timestamp: world.now().toISOString(),
    data: { kind: "sandbox.paused", sandbox_id: "i1", message: "one", team_id: "default", subject: { kind: "sandbox", id: "i1" } },
  });
  expect(row).toMatchObject({ state: "delivered", attempts: 1, last_status: 200 });
});

test("only what a channel wants is sent to it, and nothing while it is off", async () => {
  await world.webhook("paused", { kinds: ["sandbox.paused"] });
  await world.webhook("sandboxes", { kinds: ["sandbox.*"] });
  await world.webhook("builds", { kinds: ["build.*"] });
  await world.webhook("off", { is_enabled: false });
  await world.happen("i1", "paused");
  await world.happen("i1", "resumed", "sandbox.resumed");
  await world.deliver(deliverer);
  expect(world.messagesAt("/paused")).toEqual(["paused"]);
  expect(world.messagesAt("/sandboxes")).toEqual(["paused", "resumed"]);
  expect(world.messagesAt("/builds")).toEqual([]);
  expect(world.messagesAt("/off")).toEqual([]);
});

test("what is nobody's is sent to channels of the platform's admins that want it, what is another team's to none", async () => {
  await world.webhook("team");
  await world.webhook("platform", { platform_events: true });
  const { db } = database;
  const actor = world.caller.actor;
  await setAdmin(true);
  await emit(db, { kind: "host.unreachable", teamId: null, subject: { kind: "host", id: "h1" }, actor, message: "gone" });
  await emit(db, { kind: "team.created", teamId: "gother000000000000000", subject: { kind: "team", id: "x" }, actor, message: "theirs" });
  await world.happen("i1", "ours");
  await world.deliver(deliverer);
  expect(world.messagesAt("/team")).toEqual(["ours"]);
  expect(world.messagesAt("/platform").sort()).toEqual(["gone", "ours"]);
});

test("nothing of the platform's is sent to a team whose admin is none any more", async () => {
  await world.webhook("platform", { platform_events: true });
  const { db } = database;
  const actor = world.caller.actor;
  for (const [isAdmin, message] of [
    [true, "while"],
    [false, "after"],
  ] as const) {
    await setAdmin(isAdmin);
    await emit(db, { kind: "host.unreachable", teamId: null, subject: { kind: "host", id: "h1" }, actor, message });
    await world.happen("i1", `ours ${message}`);
  }
  await world.deliver(deliverer);
  expect(world.messagesAt("/platform").sort()).toEqual(["ours after", "ours while", "while"]);
});

test("what fails is tried again under the same id, later each time, and arrives once it can", async () => {
  const { channel } = await world.webhook("hook");
  world.receiver.behaviour = (_request, response) => void response.writeHead(503).end();
  await world.happen("i1", "one");
  const waits: number[] = [];
  for (let attempt = 0; attempt < 5; attempt += 1) {
    expect(await world.deliver(deliverer), "its time has come").toBe(1);
    expect(await world.deliver(deliverer), "and not again").toBe(0);
    const [row] = await rowsOf(channel.id);
    const waitMs = (row?.time_next.getTime() ?? 0) - world.timeMs;
    waits.push(waitMs / second);
    world.wait(waitMs - 1);
    expect(await world.deliver(deliverer), "a moment before").toBe(0);
    world.wait(1 * minute); // the channel's own rest is over, too
  }
  expect(waits).toEqual([5, 10, 20, 40, 80]);
  world.receiver.behaviour = (_request, response) => void response.writeHead(204).end();
  await world.deliver(deliverer);
  expect(new Set(world.receiver.received.map(({ headers }) => headers["webhook-id"])).size).toBe(1);
  expect(await world.channels.get("default", channel.id)).toMatchObject({ failing_since: null, pending: 0, failed: 0 });
});

test("one that says how long to wait is heeded, up to an hour", async () => {
  const { channel } = await world.webhook("hook");
  world.receiver.behaviour = (_request, response) => void response.writeHead(429, { "retry-after": "600" }).end();
  await world.happen("i1", "one");
  await world.deliver(deliverer);
  expect((await rowsOf(channel.id))[0]?.time_next.getTime()).toBe(world.timeMs + 10 * minute);
  world.receiver.behaviour = (_request, response) => void response.writeHead(429, { "retry-after": "999999" }).end();
  world.wait(10 * minute);
  await world.deliver(deliverer);
  expect((await rowsOf(channel.id))[0]?.time_next.getTime()).toBe(world.timeMs + 1 * hour);
});

test("after a day it is given up, is listed as failed, and can be tried again by hand", async () => {
  const { channel } = await world.webhook("hook");
  world.receiver.behaviour = (_request, response) => void response.writeHead(500).end("the stack trace");
  await world.happen("i1", "one");
  await world.deliver(deliverer);
  world.wait(deliveryTimeoutMs - 1 * second);
  await world.deliver(deliverer);
  const failed = await world.deliveries.list("default", channel.id, { state: "failed", limit: 10 });
  expect(failed.deliveries).toMatchObject([
    { state: "failed", attempts: 2, last_status: 500, last_error: "it answered with status 500", next_attempt_at: null },
  ]);
  expect(await world.channels.get("default", channel.id)).toMatchObject({ failed: 1, pending: 0 });
  world.wait(1 * hour);
  expect(await world.deliver(deliverer), "nobody tries it").toBe(0);

  const [given] = failed.deliveries;
  await world.deliveries.retry("default", channel.id, given?.id ?? "");
  world.receiver.behaviour = (_request, response) => void response.end();
  expect(await world.deliver(deliverer)).toBe(1);
  expect((await world.deliveries.list("default", channel.id, { limit: 10 })).deliveries).toMatchObject([
    { id: given?.id, state: "delivered", attempts: 3 },
  ]);
  await expect(world.deliveries.retry("default", channel.id, given?.id ?? "")).rejects.toMatchObject({ code: "delivery_ended" });
});

test("of one sandbox an event waits for the one before; other sandboxes and other channels do not", async () => {
  await world.webhook("good");
  await world.webhook("picky");
  world.receiver.behaviour = ({ path, body }, response) =>
    void response.writeHead(path === "/picky" && body.includes('"first"') ? 500 : 200).end();
  await world.happen("i1", "first");
  await world.happen("i1", "second");
  await world.happen("i2", "other");
  await world.deliver(deliverer);
  world.wait(1 * second);
  await world.deliver(deliverer);
  expect(world.messagesAt("/good").sort()).toEqual(["first", "other", "second"]);
  expect(world.messagesAt("/good").indexOf("first")).toBeLessThan(world.messagesAt("/good").indexOf("second"));
  expect(world.messagesAt("/picky").sort(), "the second is not sent before the first is taken").toEqual(["first", "other"]);
  world.receiver.behaviour = (_request, response) => void response.end();
  world.wait(1 * minute);
  await world.deliver(deliverer);
  expect(world.messagesAt("/picky").slice(-2)).toEqual(["first", "second"]);
});

test("a second event goes on when the first is given up", async () => {
  await world.webhook("hook");
  world.receiver.behaviour = ({ body }, response) => void response.writeHead(body.includes('"bad"') ? 400 : 200).end();
  await world.happen("i1", "bad");
  await world.happen("i1", "good");
  await world.deliver(deliverer);
  expect(world.messagesAt("/hook")).toEqual(["bad"]);
  world.wait(deliveryTimeoutMs);
  await world.deliver(deliverer);
  expect(world.messagesAt("/hook")).toEqual(["bad", "bad", "good"]);
});

test.each([
  ["hangs", hang, null, /^there was no answer within/],
  ["sends its answer's head a byte at a time", dribble, null, /^there was no answer within/],
  ["redirects to itself", redirect, 302, /status 302/],
  ["answers with headers without end", hugeHead, null, /not HTTP/],
  ["closes the connection", hangUp, null, /^it could not be connected to/],
] as const)("a receiver that %s: the try ends, nothing of the answer is told", async (_name, behaviour, status, error) => {
  const { channel } = await world.webhook("hook");
  world.receiver.behaviour = behaviour;
  await world.happen("i1", "one");
  // one that is to take too long need not be waited for; of the others none may, however busy the machine is
  await world.deliver(error.source.includes("within") ? world.deliverer(database, { timeoutMs: 500 }) : deliverer);
  expect(
    world.receiver.received.map(({ path }) => path),
    "no redirect is followed",
  ).toEqual(["/hook"]);
  const [row] = await rowsOf(channel.id);
  expect(row).toMatchObject({ state: "pending", attempts: 1, last_status: status });
  expect(row?.last_error).toMatch(error);
});

test("a receiver that answers with gigabytes is left as soon as its status is known", async () => {
  await world.webhook("hook");
  let sent = 0;
  const ended = new Promise<void>((resolve) => {
    world.receiver.behaviour = (_request, response) => {
      response.writeHead(200, { "content-length": 2 ** 32 });
      const chunk = Buffer.alloc(64 * 1024);
      const pour = () => {
        while (!response.destroyed && sent < 2 ** 32) {
          sent += chunk.length;
          if (!response.write(chunk)) return;
        }
      };
      response.on("close", resolve).on("drain", pour);
      pour();
    };
  });
  await world.happen("i1", "one");
  await world.deliver(deliverer);
  await ended;
  expect(sent).toBeLessThan(64 * 1024 * 1024);
  expect(world.receiver.received).toHaveLength(1);
});

test("a crash after the deed and before its record: sent once more, under the same id", async () => {
  const { channel } = await world.webhook("hook");
  await world.happen("i1", "one");
  world.receiver.behaviour = async (_request, response) => {
    await ChannelWorld.killed(world, channel.id); // whoever sent it cannot record it any more
    response.end();
  };
  await world.deliver(deliverer);
  expect(await rowsOf(channel.id)).toMatchObject([{ state: "pending" }]);
  expect(await world.deliver(world.deliverer()), "not before the lease has ended").toBe(0);
  world.receiver.behaviour = (_request, response) => void response.end();
  world.wait(leaseMs);
  expect(await world.deliver(world.deliverer())).toBe(1);
  expect(world.messagesAt("/hook")).toEqual(["one", "one"]);
  expect(new Set(world.receiver.received.map(({ headers }) => headers["webhook-id"])).size).toBe(1);
  expect(await rowsOf(channel.id)).toMatchObject([{ state: "delivered" }]);
});

test("a shutdown gives back what is under way", async () => {
  const { channel } = await world.webhook("hook");
  await world.happen("i1", "one");
  const ending = new AbortController();
  world.receiver.behaviour = () => ending.abort();
  await deliverer.look(ending.signal);
  await deliverer.settled();
  expect(await rowsOf(channel.id)).toMatchObject([{ state: "pending", lease_token: null, last_error: null }]);
  world.receiver.behaviour = (_request, response) => void response.end();
  expect(await world.deliver(world.deliverer())).toBe(1);
});

test("one channel has a few requests at once, a dead one a single one and then a rest", async () => {
  await world.webhook("hook");
  for (let index = 0; index < 12; index += 1) await world.happen(`i${index}`, `${index}`);
  world.receiver.behaviour = async (_request, response) => {
    await new Promise((resolve) => setTimeout(resolve, 20));
    response.end();
  };
  await world.deliver(deliverer);
  expect(world.receiver.openMost).toBe(4);
  expect(world.messagesAt("/hook")).toHaveLength(12);

  world.receiver.behaviour = (_request, response) => void response.writeHead(500).end();
  for (let index = 0; index < 12; index += 1) await world.happen(`i${index}`, `again ${index}`);
  await world.deliver(deliverer);
  world.receiver.openMost = 0;
  const before = world.receiver.received.length;
  world.wait(1 * minute);
  expect(await world.deliver(deliverer), "one, and then it rests").toBe(1);
  expect(world.receiver.received.length - before).toBe(1);
});

test("what nobody could try is not given up unseen; a dead channel's is; too many give up the oldest", async () => {
  const { channel } = await world.webhook("hook");
  for (const message of ["1", "2", "3"]) await world.happen(`i${message}`, message);
  world.wait(2 * deliveryTimeoutMs); // no control plane ran
  const now = world.now();
  const deadSince = new Date(world.timeMs - deliveryTimeoutMs);
  expect(await giveUpDeliveries(database.db, { now, deadSince, pendingMax: 100 })).toBe(0);
  expect(await forgetEvents(database.db, now, 0), "no event that is yet to be sent is forgotten").toBe(0);
  expect(await giveUpDeliveries(database.db, { now, deadSince, pendingMax: 2 })).toBe(1);
  expect((await rowsOf(channel.id)).map(({ state, last_error: error }) => `${state} ${error}`)).toEqual([
    "failed too many others were waiting",
    "pending null",
    "pending null",
  ]);
  await database.db.updateTable("channel").set({ failures: 1, time_failing: deadSince }).execute();
  expect(await giveUpDeliveries(database.db, { now, deadSince, pendingMax: 100 })).toBe(2);
  expect(await forgetEvents(database.db, now, 0)).toBe(3);
  expect(await rowsOf(channel.id), "with what was to be sent of them").toEqual([]);
});

async function dribble(_request: unknown, response: ServerResponse): Promise<void> {
  const socket = response.socket;
  for (const character of "HTTP/1.1 200 OK\r\nx-slow: ".padEnd(200, "x")) {
    if (socket === null || socket.destroyed) return;
    socket.write(character);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function hugeHead(_request: unknown, response: ServerResponse): void {
  response.socket?.end(`HTTP/1.1 200 OK\r\n${"x-filler: y\r\n".repeat(10_000)}\r\n`);
}

function hang(): void {}

function redirect(_request: unknown, response: ServerResponse): void {
  response.writeHead(302, { location: "/elsewhere" }).end();
}

function hangUp(_request: unknown, response: ServerResponse): void {
  response.destroy();
}
