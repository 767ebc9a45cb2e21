import { createChannelBodySchema, updateChannelBodySchema } from "@roost/contract";
import { hour, minute, SecretBox, silentLogger } from "@roost/kit";
import { Webhook } from "standardwebhooks";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import { Audit } from "../audit/audit.ts";
import type { Database } from "../db/database.ts";
import { ChannelWorld } from "../testing/channel-world.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { AddressGuard } from "./address-guard.ts";
import { Channels } from "./channels.ts";

let database: Database;
let world: ChannelWorld;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => (world = await ChannelWorld.start(database)));
afterEach(async () => world[Symbol.asyncDispose]());

const signal = new AbortController().signal;
const body = (more: object) =>
  createChannelBodySchema.parse({ name: "hook", kind: "webhook", config: { url: world.receiver.url() }, ...more });
const patch = (more: object) => updateChannelBodySchema.parse(more);
const stranger = () => ({ ...world.caller, teamId: "gstranger000000000000" });

test("the secret and the address are shown once and never again, and the database does not know them", async () => {
  const url = world.receiver.url("/services/very-secret");
  const { channel, secret } = await world.channels.create(world.caller, body({ config: { url } }));
  expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
  expect(channel).toMatchObject({
    name: "hook",
    kind: "webhook",
    destination: new URL(url).origin,
    kinds: [],
    is_enabled: true,
    pending: 0,
  });
  const shown = JSON.stringify([channel, await world.channels.get("default", channel.id), await world.channels.list("default")]);
  const row = await database.db.selectFrom("channel").selectAll().executeTakeFirstOrThrow();
  const stored = Buffer.from(row.config).toString("latin1") + JSON.stringify({ ...row, config: null });
  for (const text of [shown, stored]) {
    expect(text).not.toContain("very-secret");
    expect(text).not.toContain(secret);
  }
});

test("what is asked for is checked: the form of its kind, addresses, the number, the name", async () => {
  const { channels, caller } = world;
  const refused = async (more: object, code: string, message: RegExp) => {
    await expect(channels.create(caller, body(more)), JSON.stringify(more)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
  };
  await refused({ config: {} }, "request_invalid", /url/);
  for (const url of [
    "ftp://example.com",
    "http://user:pass@example.com/",
    "javascript:alert(1)",
    "https://example.com/#x",
    "nothing",
    "http://",
  ]) {
    await refused({ config: { url } }, "request_invalid", /url/);
  }
  await refused({ kind: "telegram", config: { bot_token: "no", chat_id: "1" } }, "request_invalid", /bot_token/);
  await refused({ config: { url: world.receiver.url(), more: "x" } }, "request_invalid", /more/);
  await refused({ config: { url: "http://169.254.169.254/" } }, "address_forbidden", /169\.254/);
  await refused(
    { kind: "matrix", config: { homeserver_url: "http://[fd00::1]", access_token: "x", room_id: "!a:b" } },
    "address_forbidden",
    /fd00/,
  );
  expect(createChannelBodySchema.safeParse({ name: "x", kind: "webhook", config: {}, kinds: ["sandbox.invented"] }).success).toBe(false);

  await channels.create(caller, body({}));
  await refused({}, "channel_exists", /hook/);
  for (let index = 1; index < 50; index += 1) await channels.create(caller, body({ name: `hook-${index}` }));
  await refused({ name: "one-too-many" }, "channel_limit", /50/);
});

test("the platform's events are for its admins", async () => {
  await expect(world.channels.create({ ...world.caller, isAdmin: false }, body({ platform_events: true }))).rejects.toMatchObject({
    code: "admin_only",
  });
  expect((await world.channels.create(world.caller, body({ platform_events: true }))).channel.platform_events).toBe(true);
});

test("a channel with the platform's events is changed by admins of the platform only: it would lead wherever a member of their team likes", async () => {
  const { channel } = await world.channels.create(world.caller, body({ platform_events: true }));
  const member = { ...world.caller, isAdmin: false };
  const elsewhere = patch({ config: { url: world.receiver.url("/elsewhere") } });
  await expect(world.channels.update(member, channel.id, elsewhere)).rejects.toMatchObject({ code: "admin_only" });
  await expect(world.channels.rotate(member, channel.id)).rejects.toMatchObject({ code: "admin_only" });
  expect(await world.channels.update(world.caller, channel.id, elsewhere)).toMatchObject({ platform_events: true });
  await world.channels.delete(member, channel.id);
});

test("another team finds none of it", async () => {
  const { channel } = await world.webhook("hook");
  await world.happen("i1", "one");
  const [delivery] = (await world.deliveries.list("default", channel.id, { limit: 1 })).deliveries;
  const { channels, deliveries } = world;
  const { teamId } = stranger();
  const attempts = [
    async () => channels.get(teamId, channel.id),
    async () => channels.update(stranger(), channel.id, patch({ is_enabled: false })),
    async () => channels.delete(stranger(), channel.id),
    async () => channels.rotate(stranger(), channel.id),
    async () => channels.test(stranger(), channel.id, signal),
    async () => deliveries.list(teamId, channel.id, { limit: 1 }),
    async () => deliveries.retry(teamId, channel.id, delivery?.id ?? ""),
  ];
  for (const attempt of attempts) await expect(attempt()).rejects.toMatchObject({ code: "channel_not_found" });
  expect(await channels.list(teamId)).toEqual([]);
  expect(world.receiver.received).toEqual([]);
});

test("a test is sent as events are, and tells of the answer its status and nothing else", async () => {
  const { channel, secret } = await world.webhook("hook");
  world.timeMs = Date.now(); // the library compares with the real time
  expect(await world.channels.test(world.caller, channel.id, signal)).toEqual({ delivered: true, status: 200, error: null });
  const [request] = world.receiver.received;
  expect(new Webhook(secret ?? "").verify(request?.body ?? "", request?.headers as Record<string, string>)).toMatchObject({
    type: "channel.test",
  });

  await expect(world.channels.test(world.caller, channel.id, signal)).rejects.toMatchObject({ code: "rate_limited" });
  world.wait(1 * minute);
  world.receiver.behaviour = (_request, response) => void response.writeHead(403, { "x-inside": "secret" }).end("secret");
  expect(await world.channels.test(world.caller, channel.id, signal)).toEqual({
    delivered: false,
    status: 403,
    error: "it answered with status 403",
  });
});

test("a test does not get to an address that is not allowed either", async () => {
  const { channel } = await world.webhook("hook");
  const { db } = database;
  const guarded = new Channels({ db, box: world.box, guard: new AddressGuard([]), audit: new Audit(), log: silentLogger });
  const outcome = await guarded.test(world.caller, channel.id, signal);
  expect(outcome).toMatchObject({ delivered: false, status: null, error: expect.stringContaining("public address") });
  expect(world.receiver.received).toEqual([]);
});

test("a rotation makes a new secret, and signs with both for a day", async () => {
  const { channel, secret } = await world.webhook("hook");
  world.timeMs = Date.now();
  const rotated = await world.channels.rotate(world.caller, channel.id);
  expect(rotated).toEqual({
    secret: expect.not.stringMatching(secret ?? ""),
    old_secret_until: new Date(world.timeMs + 24 * hour).toISOString(),
  });
  await world.channels.test(world.caller, channel.id, signal);
  const [request] = world.receiver.received;
  for (const known of [secret ?? "", rotated.secret]) {
    new Webhook(known).verify(request?.body ?? "", request?.headers as Record<string, string>);
  }
  const { channel: slack } = await world.channels.create(world.caller, body({ name: "chat", kind: "slack" }));
  await expect(world.channels.rotate(world.caller, slack.id)).rejects.toMatchObject({ code: "request_invalid" });
});

test("a change keeps what it does not name; two at once do not undo each other", async () => {
  const { channel, secret } = await world.webhook("hook", { kinds: ["sandbox.*"] });
  await world.webhook("taken");
  const { channels, caller } = world;
  await expect(channels.update(caller, channel.id, patch({ name: "taken" }))).rejects.toMatchObject({ code: "channel_exists" });
  world.timeMs = Date.now();
  const changed = await channels.update(caller, channel.id, patch({ config: { url: world.receiver.url("/new") } }));
  expect(changed).toMatchObject({ name: "hook", kinds: ["sandbox.*"] });
  await channels.test(caller, channel.id, signal);
  expect(world.receiver.received[0]?.path).toBe("/new");
  new Webhook(secret ?? "").verify(world.receiver.received[0]?.body ?? "", world.receiver.received[0]?.headers as Record<string, string>);
  const both = await Promise.allSettled([
    channels.update(caller, channel.id, patch({ kinds: [] })),
    channels.update(caller, channel.id, patch({ is_enabled: false })),
  ]);
  const reasons = both.map((one) => (one.status === "fulfilled" ? "done" : (one.reason as { code: string }).code));
  const { kinds, is_enabled: isEnabled } = await channels.get("default", channel.id);
  expect([kinds.length === 0 ? "done" : "channel_changed", isEnabled ? "channel_changed" : "done"]).toEqual(reasons);
});

test("with another secret key a channel cannot be used, says so, and is repaired by setting it again", async () => {
  const { channel } = await world.webhook("hook");
  const { db } = database;
  const box = new SecretBox("f".repeat(64), "channels");
  const channels = new Channels({ db, box, guard: world.guard(), audit: new Audit(), log: silentLogger });
  await expect(channels.test(world.caller, channel.id, signal)).rejects.toMatchObject({ code: "channel_changed" });
  await channels.update(world.caller, channel.id, patch({ config: { url: world.receiver.url() } }));
  const later = new Channels({ db, box, guard: world.guard(), audit: new Audit(), log: silentLogger });
  expect(await later.test(world.caller, channel.id, signal)).toMatchObject({ delivered: true });
});

test("what is done to channels is audited, without secrets", async () => {
  const { channel, secret } = await world.webhook("hook");
  await world.channels.update(world.caller, channel.id, patch({ is_enabled: false }));
  const { secret: next } = await world.channels.rotate(world.caller, channel.id);
  await world.channels.delete(world.caller, channel.id);
  const rows = await database.db.selectFrom("audit_entry").selectAll().where("resource_id", "=", channel.id).orderBy("number").execute();
  expect(rows.map(({ action }) => action)).toEqual(["channel.create", "channel.update", "channel.rotate", "channel.delete"]);
  const text = JSON.stringify(rows);
  for (const hidden of [secret ?? "", next, "/hook"]) expect(text).not.toContain(hidden);
});
