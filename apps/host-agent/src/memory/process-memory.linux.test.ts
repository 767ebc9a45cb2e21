import { createHash, randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { identifyProcess, MiB } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { pageBytes } from "../vmm/driver.ts";
import { openProcessMemory } from "./process-memory.ts";
import { MappedProcess, type MappingShape } from "./testing/mapped-process.ts";

// Needs root (another process's memory through /proc) and python3.

const memoryBytes = 8 * MiB;
let folder: string;
let baseFile: string;
let base: Buffer;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-memory-"));
  baseFile = join(folder, "base file.memory");
  base = randomBytes(memoryBytes);
  await writeFile(baseFile, base);
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

const hashOf = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

test("changed pages are those the process has written, whatever it has read, and whether the content differs or not", async () => {
  await using child = await MappedProcess.start(baseFile);
  const memory = await openProcessMemory({ pid: child.pid, baseFile });
  expect(memory.sizeBytes).toBe(memoryBytes);
  expect(await memory.changedPages()).toEqual([]);

  await child.read(0, 100);
  expect(await memory.changedPages()).toEqual([]);

  await child.write(7, 1, 3);
  await child.write(12, 0); // becomes zero
  await child.write(2047, 255); // the last page
  await child.write(0, 9);
  const changed = [
    { firstPage: 0, pageCount: 1 },
    { firstPage: 7, pageCount: 3 },
    { firstPage: 12, pageCount: 1 },
    { firstPage: 2047, pageCount: 1 },
  ];
  expect(await memory.changedPages()).toEqual(changed);
  await child.write(9, 1); // the same bytes once more
  expect(await memory.changedPages()).toEqual(changed);

  const pages = Buffer.alloc(3 * pageBytes);
  memory.read(6, pages);
  expect(pages.subarray(0, pageBytes).equals(base.subarray(6 * pageBytes, 7 * pageBytes))).toBe(true);
  expect(pages.subarray(pageBytes).every((byte) => byte === 1)).toBe(true);
  memory.close();
  memory.close();
  expect(() => memory.read(0, pages)).toThrow("closed");
});

test("what is written is what the process reads, a changed page from then on, and never in the file", async () => {
  await using child = await MappedProcess.start(baseFile);
  const memory = await openProcessMemory({ pid: child.pid, baseFile });
  const pages = randomBytes(5 * pageBytes);
  memory.write(100, pages);
  expect(await child.read(100, 5)).toBe(hashOf(pages));
  expect(await child.read(99, 1)).toBe(hashOf(base.subarray(99 * pageBytes, 100 * pageBytes)));
  expect(await memory.changedPages()).toEqual([{ firstPage: 100, pageCount: 5 }]);
  expect(readFileSync(baseFile).equals(base)).toBe(true);
  memory.close();
});

test("nothing outside the guest's memory is read or written", async () => {
  await using child = await MappedProcess.start(baseFile);
  const memory = await openProcessMemory({ pid: child.pid, baseFile });
  const page = Buffer.alloc(pageBytes);
  expect(() => memory.read(2048, page)).toThrow("beyond");
  expect(() => memory.write(2047, Buffer.alloc(2 * pageBytes))).toThrow("beyond");
  expect(() => memory.read(-1, page)).toThrow("whole pages");
  expect(() => memory.read(0.5, page)).toThrow("whole pages");
  expect(() => memory.write(0, Buffer.alloc(100))).toThrow("whole pages");
  memory.close();
});

test("a mapping that the kernel keeps in pieces is one mapping", async () => {
  await using child = await MappedProcess.start(baseFile);
  await child.split(500);
  await child.write(499, 3, 3);
  const pieces = readFileSync(`/proc/${child.pid}/maps`, "utf8")
    .split("\n")
    .filter((line) => line.endsWith(baseFile));
  expect(pieces.length).toBeGreaterThan(1);
  const memory = await openProcessMemory({ pid: child.pid, baseFile });
  expect(await memory.changedPages()).toEqual([{ firstPage: 499, pageCount: 3 }]);
  memory.close();
});

test("copied pages that went to swap are changed pages", async (context) => {
  const swaps = readFileSync("/proc/swaps", "utf8").trim().split("\n").length - 1;
  if (swaps === 0) context.skip("this host has no swap: nothing can be swapped out");
  await using child = await MappedProcess.start(baseFile);
  await child.write(20, 5, 4);
  await child.pageOut(20, 4);
  expect(readFileSync(`/proc/${child.pid}/status`, "utf8")).toMatch(/^VmSwap:\s+[1-9]/m);
  const memory = await openProcessMemory({ pid: child.pid, baseFile });
  expect(await memory.changedPages()).toEqual([{ firstPage: 20, pageCount: 4 }]);
  const pages = Buffer.alloc(4 * pageBytes);
  memory.read(20, pages);
  expect(pages.every((byte) => byte === 5)).toBe(true);
  memory.close();
});

test.each<[MappingShape, string]>([
  ["shared", "not private and writable"],
  ["readonly", "not private and writable"],
  ["half", "does not map its base file as a whole"],
  ["none", "does not map its base file as a whole"],
  ["twice", "more than once"],
])("a process whose mapping is %s is refused", async (shape, message) => {
  await using child = await MappedProcess.start(baseFile, shape);
  await expect(openProcessMemory({ pid: child.pid, baseFile })).rejects.toThrow(message);
});

test("another file of the same size and content is not the base file", async () => {
  await using child = await MappedProcess.start(baseFile);
  const other = join(folder, "other.memory");
  await writeFile(other, base);
  await expect(openProcessMemory({ pid: child.pid, baseFile: other })).rejects.toThrow("does not map its base file");
});

test("the process is the one that was meant, also when its pid is used again, and its end is an error", async () => {
  const child = await MappedProcess.start(baseFile);
  const { startTicks } = (await identifyProcess(child.pid)) ?? { startTicks: "" };
  await expect(openProcessMemory({ pid: child.pid, baseFile, startTicks: "1" })).rejects.toThrow("not the one it was");
  const memory = await openProcessMemory({ pid: child.pid, baseFile, startTicks });
  memory.write(3, Buffer.alloc(pageBytes, 4));
  await child.end();
  expect(() => memory.read(3, Buffer.alloc(pageBytes))).toThrow("ends at");
  await expect(memory.changedPages()).rejects.toThrow(/ends at|ESRCH/);
  memory.close();
  await expect(openProcessMemory({ pid: child.pid, baseFile })).rejects.toThrow("ENOENT");
});

test("no descriptor is left open, whether it opens or not", async () => {
  await using child = await MappedProcess.start(baseFile);
  await using other = await MappedProcess.start(baseFile, "half");
  const before = readdirSync("/proc/self/fd").length;
  for (let round = 0; round < 20; round += 1) {
    (await openProcessMemory({ pid: child.pid, baseFile })).close();
    await openProcessMemory({ pid: other.pid, baseFile }).catch(() => undefined);
  }
  expect(readdirSync("/proc/self/fd").length).toBe(before);
});
