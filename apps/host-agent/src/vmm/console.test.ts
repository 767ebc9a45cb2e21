import { mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { run } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { consoleFileBytesMax, consoleLines, readConsole, readFileTail } from "./console.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-console-"));
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

test("the older file continues where the newer one began", async () => {
  expect((await readConsole(folder, 100)).toString()).toBe("");
  await writeFile(join(folder, "console"), "newer");
  expect((await readConsole(folder, 100)).toString()).toBe("newer");
  await writeFile(join(folder, "console.old"), "older, ");
  expect((await readConsole(folder, 100)).toString()).toBe("older, newer");
  expect((await readConsole(folder, 7)).toString()).toBe(", newer");
  expect((await readConsole(folder, 3)).toString()).toBe("wer");
  expect((await readConsole(folder, 0)).toString()).toBe("");
});

test("files that a hostile VMM made large are read within bounds", async () => {
  await writeFile(join(folder, "console"), Buffer.alloc(3 * consoleFileBytesMax, "a"));
  await writeFile(join(folder, "console.old"), Buffer.alloc(3 * consoleFileBytesMax, "b"));
  expect((await readConsole(folder, 1_000_000_000)).length).toBe(2 * consoleFileBytesMax);
});

test("links, pipes and folders in place of a file are not followed or waited for", async () => {
  await symlink("/etc/passwd", join(folder, "link"));
  await run(["mkfifo", join(folder, "pipe")]);
  for (const name of ["link", "pipe", ".", "missing"]) {
    expect((await readFileTail(join(folder, name), 100)).length, name).toBe(0);
  }
});

test("lines for people hold no control characters, escapes or endless lines", () => {
  const bytes = Buffer.from(`\u001b[31mred\u001b[0m\r\n\n\u0007bell\u0000\ttab  \n${"x".repeat(500)}\nlast`);
  expect(consoleLines(bytes, 10)).toEqual(["red", "bell\ttab", `${"x".repeat(400)}…`, "last"]);
  expect(consoleLines(bytes, 1)).toEqual(["last"]);
  expect(consoleLines(bytes, 0)).toEqual([]);
  expect(consoleLines(Buffer.of(0xff, 0xfe, 10), 5)).toEqual(["\ufffd\ufffd"]);
});
