import { Deferred } from "@roost/kit";
import { expect, test } from "vitest";

import { apiKeyCacheMs, ApiKeyCache } from "./api-key-cache.ts";
import type { ApiKey } from "./api-keys.ts";

const hash = Buffer.alloc(32, 1);
const keyNamed = (name: string): ApiKey => ({
  id: "k1",
  name,
  teamId: "default",
  scopes: new Set(),
  isAdmin: false,
  timeExpires: null,
  timeRevoked: null,
});

/** A cache whose look-ups are answered by hand, in the order they came. */
function world() {
  const asked: Deferred<ApiKey | undefined>[] = [];
  const time = { now: 0 };
  const lookUp = async () => {
    const answer = new Deferred<ApiKey | undefined>();
    asked.push(answer);
    return answer.promise;
  };
  return { asked, time, cache: new ApiKeyCache(lookUp, () => time.now) };
}

test("what is still on its way when it is cleared goes to who asked, and is not kept for others", async () => {
  const { asked, cache } = world();
  const early = cache.find(hash);
  cache.clear();
  const late = cache.find(hash);
  expect(asked).toHaveLength(2);
  asked[1]?.resolve(keyNamed("new"));
  expect((await late)?.name).toBe("new");
  asked[0]?.resolve(keyNamed("old"));
  expect((await early)?.name).toBe("old");
  expect((await cache.find(hash))?.name).toBe("new");
  expect(asked).toHaveLength(2);
});

test("it is believed from when it was asked, not from when the answer came", async () => {
  const { asked, time, cache } = world();
  const slow = cache.find(hash);
  time.now = apiKeyCacheMs - 1;
  asked[0]?.resolve(keyNamed("slow"));
  await slow;
  await cache.find(hash);
  expect(asked).toHaveLength(1);
  time.now = apiKeyCacheMs;
  void cache.find(hash);
  expect(asked).toHaveLength(2);
});

test("a failure is everybody's who waits for it, and the next one asks again", async () => {
  const { asked, cache } = world();
  const both = [cache.find(hash), cache.find(hash)];
  expect(asked).toHaveLength(1);
  asked[0]?.reject(new Error("no connection"));
  for (const find of both) await expect(find).rejects.toThrow("no connection");
  const next = cache.find(hash);
  asked[1]?.resolve(undefined);
  expect(await next).toBeUndefined();
});

test("guesses do not push out who is known", async () => {
  let asked = 0;
  const lookUp = async (each: Buffer) => {
    asked += 1;
    return each.equals(hash) ? keyNamed("known") : undefined;
  };
  const cache = new ApiKeyCache(lookUp, () => 0);
  await cache.find(hash);
  for (let guess = 0; guess < 20_000; guess += 1) await cache.find(Buffer.from(guess.toString(16).padStart(64, "a"), "hex"));
  asked = 0;
  await cache.find(hash);
  expect(asked).toBe(0);
});
