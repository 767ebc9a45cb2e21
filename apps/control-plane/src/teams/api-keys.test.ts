import { silentLogger } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { apiKeyCacheMs, ApiKeys } from "./api-keys.ts";

let database: Database;
let clock = Date.parse("2026-01-01");
let keys: ApiKeys;
beforeAll(async () => {
  database = await openTestDatabase();
  keys = new ApiKeys(database.db, silentLogger, () => clock);
}, 60_000);
afterAll(async () => database.close());

test("a key is known by both prefixes and by nothing else", async () => {
  const { id, key } = await keys.create("laptop");
  expect(await keys.check(key)).toEqual({ id, name: "laptop" });
  expect(await keys.check(key.replace("roost_", "e2b_"))).toEqual({ id, name: "laptop" });
  const digits = key.slice("roost_".length);
  for (const wrong of [
    undefined,
    "",
    digits,
    `wrn_${digits}`,
    `${key}0`,
    key.slice(0, -1),
    key.toUpperCase(),
    `roost_${"0".repeat(40)}`,
    "' OR 1=1",
  ]) {
    await expect(keys.check(wrong)).rejects.toMatchObject({ code: "api_key_invalid" });
  }
});

test("the plain key is nowhere in the database", async () => {
  const { key } = await keys.create("secret");
  const rows = await database.db.selectFrom("api_key").selectAll().execute();
  const dump = JSON.stringify(rows) + rows.map((row) => Buffer.from(row.hash).toString("hex")).join();
  expect(dump).not.toContain(key.slice("roost_".length));
});

test("a revoked key stops at once here, and in another process when the cache is over", async () => {
  const { id, key } = await keys.create("to revoke");
  const elsewhere = new ApiKeys(database.db, silentLogger, () => clock);
  await keys.check(key);
  await elsewhere.check(key);
  expect(await keys.revoke(id)).toBe(true);
  expect(await keys.revoke(id)).toBe(false);
  await expect(keys.check(key)).rejects.toMatchObject({ code: "api_key_invalid" });
  await elsewhere.check(key); // still believed
  clock += apiKeyCacheMs + 1;
  await expect(elsewhere.check(key)).rejects.toMatchObject({ code: "api_key_invalid" });
  expect((await keys.list()).map((listed) => listed.id)).not.toContain(id);
});

test("a key made elsewhere works, although it was asked for before", async () => {
  const other = new ApiKeys(database.db, silentLogger, () => clock);
  const { key } = await other.create("new");
  expect(await keys.check(key)).toMatchObject({ name: "new" });
});

test("last use is written once a minute, not once a request", async () => {
  const { id, key } = await keys.create("busy");
  const lastUsed = async () => (await keys.list()).find((listed) => listed.id === id)?.timeLastUsed?.getTime();
  const first = clock;
  await keys.check(key);
  await expect.poll(lastUsed).toBe(first);
  clock += 30_000;
  await keys.check(key);
  await database.ping(); // queries are answered in order: had there been a write, it would be done
  expect(await lastUsed()).toBe(first);
  clock += 31_000;
  await keys.check(key);
  await expect.poll(lastUsed).toBe(clock);
});
