import type { GuestLogRecord } from "@roost/contract";
import fc from "fast-check";
import { expect, test } from "vitest";

import { GuestLines, lineBytesMax, linesPerPageMax } from "./guest-lines.ts";

const nowMs = 1_800_000_000_000;
let n = 0;
const output = (data: string | Uint8Array, k: "stdout" | "stderr" = "stdout", pid = 7): GuestLogRecord => ({
  n: (n += 1),
  t: nowMs - 1,
  pid,
  k,
  data: Buffer.from(data).toString("base64"),
});
const end = (pid = 7): GuestLogRecord => ({ n: (n += 1), t: nowMs, pid, k: "end", status: "exit status 0", ok: true, timedOut: false });
const collect = (lines: GuestLines, ...records: GuestLogRecord[]) => lines.collect(records, 0, nowMs);
const messages = (entries: readonly { readonly message: string }[]) => entries.map(({ message }) => message);

test("start, output and end become entries with their level and fields", () => {
  const start = {
    n: 1,
    t: nowMs - 5.5,
    pid: 7,
    k: "start",
    command: "sh -c 'a\nb'",
    cwd: "/tmp",
    user: "user",
    tag: "t",
    terminal: true,
  } as const;
  const failed = { n: 4, t: nowMs, pid: 7, k: "end", status: "signal: killed", ok: false, timedOut: true } as const;
  expect(collect(new GuestLines(), start, output("out\r\n"), output("err\n", "stderr"), failed)).toEqual([
    {
      timeMs: nowMs - 6,
      level: "info",
      message: "process started: sh -c 'a b'",
      fields: {
        logger: "process",
        event_type: "start",
        pid: "7",
        command: "sh -c 'a\nb'",
        cwd: "/tmp",
        user: "user",
        tag: "t",
        terminal: "true",
      },
    },
    { timeMs: nowMs - 1, level: "info", message: "out", fields: { logger: "process", event_type: "stdout", pid: "7" } },
    { timeMs: nowMs - 1, level: "warn", message: "err", fields: { logger: "process", event_type: "stderr", pid: "7" } },
    {
      timeMs: nowMs,
      level: "warn",
      message: "process ended: signal: killed (its deadline passed)",
      fields: { logger: "process", event_type: "end", pid: "7", status: "signal: killed" },
    },
  ]);
});

test("a line waits for its end until the next collection, the end of its process, or the end of all", () => {
  const lines = new GuestLines();
  expect(collect(lines, output("Pass"), output("for another", "stdout", 8))).toEqual([]);
  expect(messages(collect(lines, output("word: ")))).toEqual(["for another"]);
  expect(messages(collect(lines))).toEqual(["Password: "]);
  expect(messages(collect(lines, output("no newline at the end"), end()))).toEqual([
    "no newline at the end",
    "process ended: exit status 0",
  ]);
  collect(lines, output("cut off"));
  expect(messages(lines.finish(nowMs))).toEqual(["cut off"]);
  expect(lines.finish(nowMs)).toEqual([]);
});

test("property: however output is cut into pieces, the same lines come of it", () => {
  const bytes = fc.uint8Array({ maxLength: 300 }).map((values) => values.map((value) => (value < 60 ? 10 : value)));
  fc.assert(
    fc.property(bytes, fc.array(fc.nat(300), { maxLength: 12 }), (all, cuts) => {
      const borders = [0, ...cuts.filter((cut) => cut < all.length).sort((a, b) => a - b), all.length];
      const pieces = borders.slice(1).map((border, index) => output(all.subarray(borders[index] ?? 0, border)));
      const whole = messages(collect(new GuestLines(), output(all), end()));
      expect(messages(collect(new GuestLines(), ...pieces, end()))).toEqual(whole);
      const text = Buffer.from(all).toString("utf8").split("\n");
      expect(whole.slice(0, -1)).toEqual(text.at(-1) === "" ? text.slice(0, -1) : text);
    }),
  );
});

test("a long line is cut, in pieces of any size; what is cut is counted", () => {
  const piece = "x".repeat(5_000);
  const [entry] = collect(new GuestLines(), output(piece), output(piece), output(`${piece}\n`));
  expect(entry?.message).toBe(`${"x".repeat(lineBytesMax)}… (${15_000 - lineBytesMax} bytes more)`);
});

test("what is no UTF-8 is replaced; escape sequences stay text", () => {
  expect(messages(collect(new GuestLines(), output(new Uint8Array([0x61, 0xff, 0x1b, 0x5b, 0x30, 0x6d, 0x0a]))))).toEqual([
    "a\uFFFD\u001B[0m",
  ]);
});

test("lines without end are counted, not kept", () => {
  const entries = collect(new GuestLines(), output("\n".repeat(linesPerPageMax + 50)));
  expect(entries).toHaveLength(linesPerPageMax + 1);
  expect(entries.at(-1)).toMatchObject({ level: "warn", message: expect.stringContaining("50 lines were dropped") });
});

test("what the guest dropped is told", () => {
  expect(new GuestLines().collect([output("x\n")], 12, nowMs)[0]).toMatchObject({
    level: "warn",
    message: expect.stringContaining("12 log records"),
    fields: { event_type: "dropped" },
  });
});

test("a guest that opens streams without end takes no more memory than some lines", () => {
  const lines = new GuestLines();
  const told = collect(lines, ...Array.from({ length: 1_000 }, (_, pid) => output("x", "stdout", pid)));
  expect(told.length + lines.finish(nowMs).length).toBe(1_000);
  expect(told.length).toBeGreaterThan(900);
});

test("a guest's clock does not put entries into the future, or before all time", () => {
  const at = (t: number) => collect(new GuestLines(), { ...output("x\n"), t })[0]?.timeMs;
  expect([nowMs + 1, 1e300, -1e300, 0, nowMs - 1].map(at)).toEqual([nowMs, nowMs, nowMs, nowMs, nowMs - 1]);
});
