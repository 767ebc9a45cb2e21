import { once } from "node:events";
import { request, type IncomingMessage } from "node:http";

import { errorBodySchema } from "@roost/contract";
import { poll } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import { systemCaller } from "../accounts/caller.ts";
import { World } from "../testing/world.ts";

/** What goes on for long ends with the key that it was asked for with. */

let world: World;
let sandbox: string;
let key: string;
let revoke: () => Promise<void>;
beforeAll(async () => {
  world = await World.start();
  sandbox = `/v1/sandboxes/${(await world.createSandbox()).id}`;
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());
beforeEach(async () => {
  const { apiKeys } = world.controlPlane;
  const made = await apiKeys.create(systemCaller("default"), { name: "soon gone", scopes: null, expiresInSec: null });
  key = made.key;
  revoke = () => apiKeys.revoke(systemCaller("default"), made.row.id);
});
afterEach(() => {
  world.guest.misbehaviour.files = undefined;
});

const ask = (method: string, path: string, body?: unknown) => world.request(method, path, body, { "x-api-key": key });
const codeOf = async (answer: Response) => `${answer.status} ${errorBodySchema.parse(await answer.json()).error.code}`;
/** A body of which something comes, and never the end. */
const endless = () => new ReadableStream({ start: (controller) => controller.enqueue(new Uint8Array(1000)) });
/** A request that is under way until its key is revoked, once `isUnderWay`. */
async function cutOff<Answer>(asking: Promise<Answer>, isUnderWay: () => Promise<boolean>): Promise<Answer> {
  asking.catch(() => undefined);
  await poll({ what: "the request to be under way", timeoutMs: 30_000, intervalMs: 5 }, async () =>
    (await isUnderWay()) ? true : undefined,
  );
  await revoke();
  return asking;
}

test("an upload", { timeout: 60_000 }, async () => {
  let hasCome = false;
  world.guest.misbehaviour.files = (incoming) => {
    hasCome = true;
    incoming.resume().on("error", () => undefined);
  };
  const answer = await cutOff(ask("PUT", `${sandbox}/files?path=/up`, endless()), async () => hasCome);
  expect(await codeOf(answer)).toBe("401 api_key_invalid");
});

test("a download, which never looks complete", { timeout: 60_000 }, async () => {
  world.guest.misbehaviour.files = (_incoming, response) => void response.writeHead(200).write("only this");
  const answer = await ask("GET", `${sandbox}/files?path=/down`);
  expect(answer.status).toBe(200);
  await revoke();
  await expect(answer.text()).rejects.toThrow("terminated");
});

test("a command that somebody waits for, which is killed", { timeout: 60_000 }, async () => {
  const asking = ask("POST", `${sandbox}/exec`, { cmd: "sleep", args: ["600"], timeout_sec: 0 });
  expect(await codeOf(await cutOff(asking, async () => world.guest.runningPids.length > 0))).toBe("401 api_key_invalid");
  await poll({ what: "the end of the command", timeoutMs: 30_000 }, () => (world.guest.runningPids.length === 0 ? true : undefined));
});

test("an archive for a build", { timeout: 60_000 }, async () => {
  const headers = { "x-api-key": key, "content-type": "application/octet-stream", "content-length": "1000000" };
  const sending = request(`${world.url}/v1/templates/files/${"ab".repeat(32)}?name=one`, { method: "PUT", headers });
  const answering = once(sending, "response") as Promise<[IncomingMessage]>;
  sending.write(Buffer.alloc(1000));
  const [answer] = await cutOff(answering, async () => {
    const rows = await world.database.db.selectFrom("built_template").select("id").where("name", "=", "one").execute();
    return rows.length > 0;
  });
  expect(answer.statusCode).toBe(401);
  sending.on("error", () => undefined).destroy();
});
