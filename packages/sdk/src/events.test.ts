import { poll } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { RoostClient } from "./client.ts";
import type { FollowEventsOptions } from "./events.ts";
import { FakeApi } from "./testing/fake-api.ts";

let api: FakeApi;
let roost: RoostClient;
beforeEach(async () => {
  api = await FakeApi.start();
  roost = new RoostClient({ url: api.url, apiKey: api.apiKey });
});
afterEach(async () => api[Symbol.asyncDispose]());

const happen = (message: string, sandboxId = "i1") => api.sandboxes.saving.happen("sandbox.paused", sandboxId, message);

/** Follows until it is told to end. */
function follower(options: FollowEventsOptions = {}) {
  const messages: string[] = [];
  const abort = new AbortController();
  const ended = (async () => {
    for await (const event of roost.events.follow({ ...options, signal: abort.signal })) messages.push(event.message);
  })().catch((error: unknown) => error);
  return {
    messages,
    until: async (count: number) =>
      poll({ what: `${count} events`, timeoutMs: 20_000, intervalMs: 5 }, () => (messages.length >= count ? [...messages] : undefined)),
    end: async () => {
      abort.abort(new Error("enough"));
      return ended;
    },
    ended,
  };
}
const connected = async (count: number) =>
  poll({ what: `${count} streams`, timeoutMs: 20_000, intervalMs: 5 }, () =>
    api.seen.filter((request) => request.startsWith("GET /v1/events/stream")).length >= count ? true : undefined,
  );

test("what happens from now on, across connections that break, none missed and none twice", async () => {
  happen("before");
  const following = follower();
  await connected(1);
  await poll({ what: "the follower", timeoutMs: 20_000, intervalMs: 5 }, () => {
    if (following.messages.length === 0) happen("first"); // until it is there; the fake starts a stream where it is asked
    return following.messages.length > 0 ? true : undefined;
  });
  const seen = following.messages.length;
  for (const round of [1, 2, 3]) {
    api.dropConnections();
    happen(`away ${round}`);
    await connected(1 + round);
    happen(`back ${round}`);
    await following.until(seen + 2 * round);
  }
  expect(following.messages.slice(seen)).toEqual(["away 1", "back 1", "away 2", "back 2", "away 3", "back 3"]);
  expect(following.messages).not.toContain("before");
  expect(await following.end()).toMatchObject({ message: "enough" });
});

test("from a position that was kept, of one sandbox, of some kinds", async () => {
  happen("1");
  happen("2", "i2");
  happen("3");
  const following = follower({ after: 1, sandboxId: "i1", kinds: ["sandbox.*", "build.ready"] });
  expect(await following.until(1)).toEqual(["3"]);
  expect(api.seen.at(-1)).toBe("GET /v1/events/stream?sandbox_id=i1&kinds=sandbox.*%2Cbuild.ready&after=1");
  await following.end();
});

test("a gap is told", async () => {
  const gaps: unknown[] = [];
  api.handlers.http.followEvents = ({ response }) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(`id: 9\nevent: gap\ndata: {"after":1,"until":9}\n\n`);
  };
  const following = follower({ after: 1, onGap: (gap) => gaps.push(gap) });
  await poll({ what: "the gap", timeoutMs: 20_000, intervalMs: 5 }, () => (gaps.length > 0 ? true : undefined));
  expect(gaps).toEqual([{ after: 1, until: 9 }]);
  api.dropConnections();
  await connected(2);
  expect(api.seen.at(-1), "it goes on behind the gap").toContain("after=9");
  await following.end();
});

test("what is no event ends it, and so does a key that is not valid any more", async () => {
  for (const data of ["{}", "no JSON"]) {
    api.handlers.http.followEvents = ({ response }) => void response.writeHead(200).end(`data: ${data}\n\n`);
    expect(await follower().ended).toMatchObject({ code: "answer_invalid" });
  }
  const stranger = new RoostClient({ url: api.url, apiKey: `roost_${"0".repeat(40)}` });
  await expect(stranger.events.follow().next()).rejects.toMatchObject({ code: "api_key_invalid" });
});
