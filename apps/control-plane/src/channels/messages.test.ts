import { Webhook } from "standardwebhooks";
import { expect, test } from "vitest";
import { SecretBox } from "@roost/kit";

import { openSecrets, newChannelSecret, sealSecrets, type ChannelSecrets } from "./channel-secrets.ts";
import { requestOf, type ChannelMessage } from "./messages.ts";

const message: ChannelMessage = {
  id: "6f1c2d94-3a1f-4a39-9d5e-7f2b1c0d9e8f",
  type: "sandbox.failed",
  time: new Date(1_767_225_600_000),
  text: "a <b> & @everyone",
  data: { id: "e1" },
};
const url = "https://hooks.example/services/T0/B0/secret";
const secretsOf = (config: Record<string, string>, more: Partial<ChannelSecrets> = {}): ChannelSecrets => ({
  config,
  secret: null,
  old: null,
  ...more,
});
const now = new Date();

test("a webhook is what Standard Webhooks says: its library takes it with the secret, and with no other", () => {
  const secret = newChannelSecret("webhook") ?? "";
  const request = requestOf({ kind: "webhook", secrets: secretsOf({ url }, { secret }) }, message, now);
  expect(new Webhook(secret).verify(request.body, { ...request.headers })).toEqual({
    type: "sandbox.failed",
    timestamp: message.time.toISOString(),
    data: { id: "e1" },
  });
  expect(request.headers["webhook-id"]).toBe(message.id);
  expect(() => new Webhook(newChannelSecret("webhook") ?? "").verify(request.body, { ...request.headers })).toThrow(/signature/);
  expect(() => new Webhook(secret).verify(`${request.body} `, { ...request.headers })).toThrow(/signature/);
  expect(() => new Webhook(secret).verify(request.body, { ...request.headers, "webhook-id": "another" })).toThrow(/signature/);
});

test("after a rotation both secrets are good, until the old one's time is over", () => {
  const [old, secret] = [newChannelSecret("webhook") ?? "", newChannelSecret("webhook") ?? ""];
  const secrets = secretsOf({ url }, { secret, old: { secret: old, untilMs: now.getTime() + 1 } });
  const during = requestOf({ kind: "webhook", secrets }, message, now);
  for (const known of [old, secret]) new Webhook(known).verify(during.body, { ...during.headers });
  const after = requestOf({ kind: "webhook", secrets: { ...secrets, old: { secret: old, untilMs: now.getTime() } } }, message, now);
  expect(() => new Webhook(old).verify(after.body, { ...after.headers })).toThrow(/signature/);
  new Webhook(secret).verify(after.body, { ...after.headers });
});

test("chats get the form that they take, in which nobody is mentioned", () => {
  const bodyOf = (kind: "slack" | "discord" | "teams" | "googlechat") =>
    JSON.parse(requestOf({ kind, secrets: secretsOf({ url }) }, message, now).body) as unknown;
  expect(bodyOf("slack")).toEqual({ text: "sandbox.failed: a &lt;b&gt; &amp; @everyone" });
  expect(bodyOf("discord")).toEqual({ content: "sandbox.failed: a <b> & @everyone", allowed_mentions: { parse: [] } });
  expect(bodyOf("googlechat")).toEqual({ text: "sandbox.failed: a ‹b› & @everyone" });
  expect(bodyOf("teams")).toMatchObject({
    type: "message",
    attachments: [{ content: { body: [{ text: "sandbox.failed: a <b> & @everyone" }] } }],
  });

  const telegram = requestOf({ kind: "telegram", secrets: secretsOf({ bot_token: `1:${"a".repeat(30)}`, chat_id: "-100" }) }, message, now);
  expect(telegram.url.href).toBe(`https://api.telegram.org/bot1:${"a".repeat(30)}/sendMessage`);
  expect(JSON.parse(telegram.body)).toMatchObject({ chat_id: "-100", text: "sandbox.failed: a <b> & @everyone" });

  const config = { homeserver_url: "https://matrix.example/base/", access_token: "t0ken", room_id: "!ab:example" };
  const matrix = requestOf({ kind: "matrix", secrets: secretsOf(config) }, message, now);
  expect(matrix).toMatchObject({ method: "PUT", headers: { authorization: "Bearer t0ken" } });
  expect(matrix.url.href).toBe(`https://matrix.example/base/_matrix/client/v3/rooms/!ab%3Aexample/send/m.room.message/${message.id}`);
});

test("a long text is cut where chats would refuse it", () => {
  const { body } = requestOf({ kind: "discord", secrets: secretsOf({ url }) }, { ...message, text: "x".repeat(10_000) }, now);
  expect((JSON.parse(body) as { content: string }).content.length).toBeLessThan(2_000);
});

test("what is sealed for one channel opens for no other, with no other key, and not when it was changed", () => {
  const box = new SecretBox("a".repeat(64), "channels");
  const sealed = sealSecrets(box, "c1", secretsOf({ url }));
  expect(sealed.toString("latin1")).not.toContain("hooks.example");
  expect(openSecrets(box, "c1", sealed)).toEqual(secretsOf({ url }));
  expect(() => openSecrets(box, "c2", sealed)).toThrow(/authenticate/);
  expect(() => openSecrets(new SecretBox("b".repeat(64), "channels"), "c1", sealed)).toThrow(/authenticate/);
  expect(() => openSecrets(new SecretBox("a".repeat(64), "hosts"), "c1", sealed)).toThrow(/authenticate/);
  const changed = Buffer.from(sealed);
  changed[changed.length - 1] = (changed.at(-1) ?? 0) ^ 1;
  expect(() => openSecrets(box, "c1", changed)).toThrow(/authenticate/);
});
