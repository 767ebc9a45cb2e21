import { poll } from "@roost/kit";
import { Webhook } from "standardwebhooks";
import { afterAll, beforeAll, expect, test } from "vitest";

import { parseRanges } from "../channels/address-ranges.ts";
import { Receiver } from "../testing/receiver.ts";
import { World } from "../testing/world.ts";

let world: World;
let receiver: Receiver;
beforeAll(async () => {
  receiver = await Receiver.start();
  world = await World.start({ options: { webhookAllowedRanges: parseRanges("127.0.0.1") } });
}, 60_000);
afterAll(async () => {
  await world[Symbol.asyncDispose]();
  await receiver[Symbol.asyncDispose]();
});

const json = async <Value>(answer: Response) => (await answer.json()) as Value;

test("what a host tells of a sandbox gets to the team's webhook, once, signed, and to nobody else's", async () => {
  const body = { name: "hook", kind: "webhook", config: { url: receiver.url() }, kinds: ["sandbox.paused"] };
  const made = await world.request("POST", "/v1/channels", body);
  expect(made.status).toBe(201);
  const { channel, secret } = await json<{ channel: { id: string }; secret: string }>(made);
  const { id } = await world.createSandbox();
  world.host.happen({ kind: "sandbox.paused", sandboxId: id, message: "paused", eventId: "event-of-host-1" });
  world.host.happen({ kind: "sandbox.paused", sandboxId: id, message: "paused", eventId: "event-of-host-1" }); // as after a reconnect
  world.host.happen({ kind: "sandbox.resumed", sandboxId: id, message: "resumed" });
  world.host.happen({ kind: "sandbox.paused", sandboxId: id, message: "paused again" });
  await poll({ what: "two messages", timeoutMs: 30_000 }, () => (receiver.received.length >= 2 ? true : undefined));
  const told = receiver.received.map(({ body: text, headers }) => new Webhook(secret).verify(text, headers as Record<string, string>));
  expect(told).toMatchObject([
    { type: "sandbox.paused", data: { sandbox_id: id, message: "paused", team_id: "default", actor: { kind: "host" } } },
    { type: "sandbox.paused", data: { message: "paused again" } },
  ]);

  const listed = await poll({ what: "the record of both", timeoutMs: 30_000 }, async () => {
    const answer = await world.request("GET", `/v1/channels/${channel.id}/deliveries?state=delivered&limit=1`);
    const page = await json<{ deliveries: { id: string; event_kind: string }[]; next_cursor: string | null }>(answer);
    return page.next_cursor === null ? undefined : page;
  });
  expect(listed.deliveries[0]?.event_kind).toBe("sandbox.paused");
  const next = await world.request("GET", `/v1/channels/${channel.id}/deliveries?state=delivered&limit=1&cursor=${listed.next_cursor}`);
  const last = await json<{ deliveries: { id: string }[]; next_cursor: string | null }>(next);
  expect(last).toMatchObject({ next_cursor: null });
  expect([...last.deliveries, ...listed.deliveries].map((delivery) => delivery.id)).toEqual(
    receiver.received.map(({ headers }) => headers["webhook-id"]),
  );
  const again = await world.request("POST", `/v1/channels/${channel.id}/deliveries/${listed.deliveries[0]?.id}/retry`);
  expect([again.status, await again.json()]).toMatchObject([409, { error: { code: "delivery_ended" } }]);
});

test("changes, tests, rotation and deletion", async () => {
  const made = await world.request("POST", "/v1/channels", { name: "other", kind: "webhook", config: { url: receiver.url("/other") } });
  const { channel, secret } = await json<{ channel: { id: string }; secret: string }>(made);
  const path = `/v1/channels/${channel.id}`;
  expect(await json(await world.request("PATCH", path, { kinds: ["build.*"], name: "renamed" }))).toMatchObject({
    name: "renamed",
    kinds: ["build.*"],
  });
  expect((await world.request("PATCH", path, { kind: "slack" })).status, "its kind stays").toBe(400);
  expect(await json(await world.request("POST", `${path}/test`))).toEqual({ delivered: true, status: 200, error: null });
  const rotated = await json<{ secret: string }>(await world.request("POST", `${path}/secret`));
  expect(rotated.secret).not.toBe(secret);
  expect((await world.request("DELETE", path)).status).toBe(204);
  for (const [method, suffix] of [
    ["GET", ""],
    ["DELETE", ""],
    ["POST", "/test"],
    ["POST", "/secret"],
    ["GET", "/deliveries"],
  ] as const) {
    expect((await world.request(method, path + suffix)).status, `${method} ${suffix}`).toBe(404);
  }
});

test("an address inside is refused as soon as it is said, and its tokens are not repeated", async () => {
  const inside = { name: "inside", kind: "webhook", config: { url: "http://169.254.169.254/latest/meta-data" } };
  const answer = await world.request("POST", "/v1/channels", inside);
  expect([answer.status, await answer.json()]).toMatchObject([400, { error: { code: "address_forbidden" } }]);
  const telegram = { name: "phone", kind: "telegram", config: { bot_token: "not-a-token-but-secret", chat_id: "1" } };
  const refused = await world.request("POST", "/v1/channels", telegram);
  const text = await refused.text();
  expect(refused.status).toBe(400);
  expect(text).toContain("bot_token");
  expect(text).not.toContain("not-a-token-but-secret");
});
