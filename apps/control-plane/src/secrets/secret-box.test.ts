import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { readSecretKey, SecretBox } from "./secret-box.ts";

const key = "ab".repeat(32);
const refused = /unable to authenticate|no sealed secret/;
let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "roost-secrets-"));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

test("what is sealed is opened by the same key, purpose and context, and by nothing else", () => {
  const sealed = new SecretBox(key, "tests").seal("a secret", "row 1");
  expect(new SecretBox(key, "tests").open(sealed, "row 1")).toBe("a secret");
  expect(sealed.toString("latin1")).not.toContain("secret");
  expect(new SecretBox(key, "tests").seal("a secret", "row 1")).not.toEqual(sealed);
  expect(() => new SecretBox("cd".repeat(32), "tests").open(sealed, "row 1")).toThrow(refused);
  expect(() => new SecretBox(key, "others").open(sealed, "row 1")).toThrow(refused);
  expect(() => new SecretBox(key, "tests").open(sealed, "row 2")).toThrow(refused);
  for (let at = 0; at < sealed.length; at += 1) {
    const changed = Buffer.from(sealed);
    changed[at] = (changed[at] ?? 0) ^ 1;
    expect(() => new SecretBox(key, "tests").open(changed, "row 1")).toThrow(refused);
  }
  for (const length of [0, 1, 28, sealed.length - 1])
    expect(() => new SecretBox(key, "tests").open(sealed.subarray(0, length), "row 1")).toThrow(refused);
});

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
