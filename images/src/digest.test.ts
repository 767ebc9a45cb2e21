import { chmod, mkdir, mkdtemp, rename, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { digestOfFile, digestOfInputs, digestOfTree, isRecipe } from "./digest.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-digest-"));
  await mkdir(join(folder, "sub"));
  await writeFile(join(folder, "a"), "one");
  await writeFile(join(folder, "sub/b"), "two");
});
afterEach(() => rm(folder, { recursive: true, force: true }));

test("a file's digest is the SHA-256 of its content", async () => {
  await writeFile(join(folder, "abc"), "abc");
  expect(await digestOfFile(join(folder, "abc"))).toBe("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
});

test("a tree's digest does not depend on times", async () => {
  const before = await digestOfTree(folder);
  await utimes(join(folder, "a"), 1, 1);
  expect(await digestOfTree(folder)).toBe(before);
});

test.each<[string, () => Promise<unknown>]>([
  ["content", () => writeFile(join(folder, "sub/b"), "other")],
  ["a name", () => rename(join(folder, "a"), join(folder, "c"))],
  ["the executable bit", () => chmod(join(folder, "a"), 0o755)],
  ["an empty folder", () => mkdir(join(folder, "empty"))],
  ["a link's target", () => symlink("a", join(folder, "link"))],
  ["content moved to another name", () => rename(join(folder, "sub/b"), join(folder, "sub/c"))],
])("a tree's digest changes with %s", async (_what, change) => {
  const before = await digestOfTree(folder);
  await change();
  expect(await digestOfTree(folder)).not.toBe(before);
});

test("two names cannot be taken for one name and content", async () => {
  await writeFile(join(folder, 'x" - sha256'), "");
  const one = await digestOfTree(folder);
  await rm(join(folder, 'x" - sha256'));
  await writeFile(join(folder, "x"), "");
  expect(await digestOfTree(folder)).not.toBe(one);
});

test("tests are not part of a recipe", async () => {
  const before = await digestOfTree(folder, isRecipe);
  await writeFile(join(folder, "a.test.ts"), "test");
  expect(await digestOfTree(folder, isRecipe)).toBe(before);
});

test("inputs are compared by name, in any order", () => {
  expect(digestOfInputs({ a: 1, b: ["x"] })).toBe(digestOfInputs({ b: ["x"], a: 1 }));
  expect(digestOfInputs({ a: 1, b: ["x"] })).not.toBe(digestOfInputs({ a: ["x"], b: 1 }));
  expect(digestOfInputs({ a: "1" })).not.toBe(digestOfInputs({ a: 1 }));
});
