import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { readSecretKey } from "./secret-key.ts";

const key = "ab".repeat(32);
let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "roost-secrets-"));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

test("the key is the operator's, or made once in the state folder, where nobody else reads it", async () => {
  expect(await readSecretKey({ secretKey: key, dir })).toBe(key);
  const made = await readSecretKey({ dir });
  expect(made).toMatch(/^[0-9a-f]{64}$/);
  expect(await readSecretKey({ dir })).toBe(made);
  const path = join(dir, "secret-key");
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect((await readFile(path, "utf8")).trim()).toBe(made);
});

test("a database server needs the operator's, and a broken file is not replaced", async () => {
  await expect(readSecretKey({ databaseUrl: "postgres://x", dir })).rejects.toThrow("ROOST_SECRET_KEY is required");
  await writeFile(join(dir, "secret-key"), "broken");
  await expect(readSecretKey({ dir })).rejects.toThrow("put back the one that was there");
  expect(await readFile(join(dir, "secret-key"), "utf8")).toBe("broken");
});
