import { execFile } from "node:child_process";
import { access, constants, readdir, readFile } from "node:fs/promises";
import { promisify } from "node:util";

import { expect, test } from "vitest";

import { recipePath } from "./recipe-folder.ts";

const scripts = [
  ...(await readdir(recipePath("guest"))).map((name) => recipePath("guest", name)),
  ...(await readdir(recipePath("base"))).map((name) => recipePath("base", name)),
];

test.each(scripts)("%s is a valid, executable POSIX shell script", async (path) => {
  await access(path, constants.X_OK);
  expect((await readFile(path, "utf8")).split("\n")[0]).toMatch(/^#!\/.*sh$/);
  await promisify(execFile)("sh", ["-n", path]);
});
