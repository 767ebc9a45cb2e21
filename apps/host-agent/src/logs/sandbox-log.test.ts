import { appendFile, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { logLevels, type LogEntry, type LogLevel, type LogQuery } from "@roost/contract";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { entriesPerMsMax } from "./log-selection.ts";
import { queriesWaitingMax, SandboxLog, type LogLimits } from "./sandbox-log.ts";

let root: string;
let folder: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "roost-log-"));
  folder = join(root, "sb1");
});
afterEach(async () => rm(root, { recursive: true, force: true }));

const large: LogLimits = { segmentBytesMax: 1_000_000, segmentsMax: 4 };
const entry = (message: string, timeMs: number, level: LogLevel = "info"): LogEntry => ({
  timeMs,
  level,
  message,
  fields: { logger: "process" },
});
const all: LogQuery = { limit: 1_000, direction: "forward" };
const messages = (entries: readonly LogEntry[] | undefined) => entries?.map(({ message }) => message);
/** Entries of the instant that has the most. */
function mostAtOnce(times: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const time of times) counts.set(time, (counts.get(time) ?? 0) + 1);
  return Math.max(0, ...counts.values());
}

const cursor = { epochs: [{ id: "e1", first: 1 }], newest: 7 };

test("what was appended is there, also for the next host agent, and private", async () => {
  const log = new SandboxLog(folder, large);
  expect(await log.query(all)).toBeUndefined();
  await log.append([entry("one\u0000\u001B[31m\u2028é", 5), entry("two", 6, "warn")], cursor);
  await log.append([entry("three", 7)]);
  for (const each of [log, new SandboxLog(folder, large)]) {
    expect(await each.query(all)).toEqual([entry("one\u0000\u001B[31m\u2028é", 5), entry("two", 6, "warn"), entry("three", 7)]);
    expect(await each.cursor()).toEqual(cursor);
  }
  const [name] = await readdir(folder);
  expect((await stat(folder)).mode & 0o777).toBe(0o700);
  expect((await stat(join(folder, name ?? ""))).mode & 0o777).toBe(0o600);
});

test("more readers at once than there is room for are sent away, and nothing that is written meanwhile is lost", async () => {
  const log = new SandboxLog(folder, large);
  await log.append([entry("before", 1)]);
  const reading = Promise.allSettled(Array.from({ length: 10 * queriesWaitingMax }, () => log.query(all)));
  await Promise.all(Array.from({ length: 60 }, (_, index) => log.append([entry(`line ${index}`, 2)])));
  const refused = (await reading).filter((outcome) => outcome.status === "rejected");
  expect(refused).toHaveLength(9 * queriesWaitingMax);
  for (const { reason } of refused) expect(reason).toMatchObject({ code: "sandbox_busy", retryAfterSec: 1 });
  expect(await log.query(all)).toHaveLength(61);
});

test("old segments go; the log never takes more than its limit, and the newest stays", async () => {
  const limits = { segmentBytesMax: 2_000, segmentsMax: 3 };
  const log = new SandboxLog(folder, limits);
  for (let count = 0; count < 200; count += 1) await log.append([entry(`line ${count}`, 1_000 + count)], cursor);
  const names = (await readdir(folder)).sort();
  expect(names).toHaveLength(3);
  for (const name of names) expect((await stat(join(folder, name))).size).toBeLessThanOrEqual(2_000);
  const kept = messages(await log.query(all)) ?? [];
  expect(kept.length).toBeGreaterThan(20);
  expect(kept).toEqual(Array.from({ length: kept.length }, (_, index) => `line ${200 - kept.length + index}`));
  const again = new SandboxLog(folder, limits);
  expect(messages(await again.query(all))).toEqual(kept);
  expect(await again.bytes()).toBe(await log.bytes());
  expect(await again.cursor()).toEqual(cursor);
});

test("an append larger than all segments leaves the newest", async () => {
  const log = new SandboxLog(folder, { segmentBytesMax: 1_000, segmentsMax: 2 });
  await log.append(Array.from({ length: 500 }, (_, index) => entry(`line ${index}`, 1_000 + index)));
  const kept = messages(await log.query(all)) ?? [];
  expect(kept.at(-1)).toBe("line 499");
  expect(await log.bytes()).toBeLessThanOrEqual(2_000);
});

test("a line that a crash cut is skipped, and the next one is not part of it", async () => {
  await new SandboxLog(folder, large).append([entry("whole", 5)], cursor);
  const path = join(folder, "00000001.jsonl");
  await appendFile(path, '{"t":6,"l":"info","m":"cu');
  const log = new SandboxLog(folder, large);
  await log.append([entry("next", 4)]);
  expect(messages(await log.query(all))).toEqual(["whole", "next"]);
  expect(await log.cursor()).toEqual(cursor);
});

test("whatever else the files hold is skipped", async () => {
  await new SandboxLog(folder, large).append([entry("whole", 5)]);
  const noise = [
    "",
    "null",
    "[]",
    '{"t":"x"}',
    '{"t":1}',
    '{"t":9,"l":"loud","m":"x","f":{}}',
    '{"t":9,"l":"info","m":3,"f":{}}',
    '{"cursor":{"epochs":[]}}',
  ];
  await appendFile(join(folder, "00000001.jsonl"), `${noise.join("\n")}\n`);
  await writeFile(join(folder, "notes.txt"), "not ours");
  const log = new SandboxLog(folder, large);
  expect(messages(await log.query(all))).toEqual(["whole"]);
  expect(await log.cursor()).toBeUndefined();
});

test("instants never go back, and each entry has its own, but a second ahead of the clock some share one", async () => {
  const nowMs = 1_000_000;
  const log = new SandboxLog(folder, large, () => nowMs);
  await log.append([entry("a", nowMs), entry("b", nowMs - 50), ...Array.from({ length: 998 }, () => entry("x", nowMs))]);
  const all = async () => ((await log.query({ limit: 10_000, direction: "forward" })) ?? []).map(({ timeMs }) => timeMs);
  expect(await all()).toEqual(Array.from({ length: 1_000 }, (_, index) => nowMs + index));
  await log.append(Array.from({ length: 250 }, () => entry("flood", nowMs)));
  const times = await all();
  expect(times).toEqual(times.toSorted((one, other) => one - other));
  expect(mostAtOnce(times)).toBe(entriesPerMsMax);
  expect(times.at(-1)).toBe(nowMs + 1_002);
});

test("what is appended after an answer is later than what was answered", async () => {
  const log = new SandboxLog(folder, large);
  await log.append([entry("seen", 100)]);
  const seen = await log.query(all);
  await log.append([entry("same instant", 100)]);
  expect(messages(await log.query({ ...all, cursorMs: (seen?.at(-1)?.timeMs ?? 0) + 1 }))).toEqual(["same instant"]);
});

test("shrinking gives up the oldest segments, never the last", async () => {
  const log = new SandboxLog(folder, { segmentBytesMax: 500, segmentsMax: 4 });
  for (let count = 0; count < 40; count += 1) await log.append([entry(`line ${count}`, count + 1)]);
  let bytes = await log.bytes();
  for (;;) {
    const freed = await log.shrink();
    expect(await log.bytes()).toBe(bytes - freed);
    if (freed === 0) break;
    bytes -= freed;
  }
  expect(messages(await log.query(all))?.at(-1)).toBe("line 39");
});

test("appends that fail are told, and the log goes on", async () => {
  await writeFile(folder, "in the way");
  const log = new SandboxLog(folder, large);
  await expect(log.append([entry("x", 1)])).rejects.toThrow(/EEXIST|ENOTDIR/);
  await rm(folder);
  await log.append([entry("y", 2)]);
  expect(messages(await log.query(all))?.at(-1)).toBe("y");
});

describe("queries", () => {
  const levels = fc.constantFrom(...logLevels);
  const logs = fc.array(fc.record({ message: fc.constantFrom("apple", "Apple pie", "banana", ""), level: levels, step: fc.nat(2) }), {
    maxLength: 60,
  });
  const filters = fc.record({ level: fc.option(levels, { nil: undefined }), search: fc.constantFrom(undefined, "pp", "Apple", "nothing") });
  const segments = fc.integer({ min: 100, max: 2_000 });

  test("property: the pages of either direction, together, are every entry that matches, once and in order", async () => {
    await fc.assert(
      fc.asyncProperty(logs, filters, segments, fc.integer({ min: 5, max: 30 }), async (script, filter, segmentBytesMax, limit) => {
        await rm(folder, { recursive: true, force: true });
        const log = new SandboxLog(folder, { segmentBytesMax, segmentsMax: 1_000 });
        let timeMs = 1_000;
        const entries = script.map(({ message, level, step }, index) => entry(`${message} ${index}`, (timeMs += step), level));
        for (const each of entries) await log.append([each]);
        const wanted = entries.filter(
          ({ level, message }) =>
            logLevels.indexOf(level) >= logLevels.indexOf(filter.level ?? "debug") &&
            (filter.search === undefined || message.includes(filter.search)),
        );
        for (const direction of ["forward", "backward"] as const) {
          const told: LogEntry[] = [];
          let cursorMs: number | undefined;
          for (;;) {
            const page = (await log.query({ ...filter, limit, direction, cursorMs })) ?? [];
            expect(page.length).toBeLessThanOrEqual(limit);
            const last = page.at(-1);
            if (last === undefined) break;
            told.push(...page);
            cursorMs = direction === "forward" ? last.timeMs + 1 : last.timeMs;
          }
          expect(messages(told)).toEqual(messages(direction === "forward" ? wanted : wanted.toReversed()));
        }
      }),
      { numRuns: 40 },
    );
  });

  test("where a flood shares instants, large pages are made of whole ones; small ones are what was asked for", async () => {
    const log = new SandboxLog(folder, large, () => 0);
    await log.append(Array.from({ length: 1_000 }, (_, index) => entry(String(index), 5_000)));
    for (const direction of ["forward", "backward"] as const) {
      const told: LogEntry[] = [];
      let cursorMs: number | undefined;
      for (;;) {
        const page = (await log.query({ limit: 150, direction, cursorMs })) ?? [];
        const last = page.at(-1);
        if (last === undefined) break;
        told.push(...page);
        cursorMs = direction === "forward" ? last.timeMs + 1 : last.timeMs;
      }
      const numbers = Array.from({ length: 1_000 }, (_, index) => String(index));
      expect(messages(told)).toEqual(direction === "forward" ? numbers : numbers.toReversed());
    }
    expect(messages(await log.query({ ...all, limit: 3 }))).toEqual(["0", "1", "2"]);
    expect(messages(await log.query({ ...all, direction: "backward", limit: 3 }))).toEqual(["999", "998", "997"]);
  });

  test("a cursor is the first instant forward, and the one before which it goes backward", async () => {
    const log = new SandboxLog(folder, large);
    for (const timeMs of [5, 6, 7]) await log.append([entry(String(timeMs), timeMs)]);
    expect(messages(await log.query({ ...all, cursorMs: 6 }))).toEqual(["6", "7"]);
    expect(messages(await log.query({ ...all, cursorMs: 7, direction: "backward" }))).toEqual(["6", "5"]);
  });
});

test("files are lines of JSON that other tools can read", async () => {
  await new SandboxLog(folder, large).append([entry("one", 5)], cursor);
  const text = await readFile(join(folder, "00000001.jsonl"), "utf8");
  expect(
    text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as unknown),
  ).toEqual([{ t: 5, l: "info", m: "one", f: { logger: "process" } }, { cursor }]);
});
