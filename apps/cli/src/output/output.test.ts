import { PassThrough, Writable } from "node:stream";

import { SeededRandom } from "@roost/testing";
import picocolors from "picocolors";
import { expect, test } from "vitest";

import { BrokenPipeError } from "../failure.ts";
import { formatAgo, formatDuration, formatMemory, formatTimeout, sparkline } from "./format.ts";
import { newBytes } from "./new-bytes.ts";
import { printable } from "./printable.ts";
import { formatFields, formatTable } from "./table.ts";
import { write } from "./write.ts";

test.each([
  [0, "0 s"],
  [59.4, "59 s"],
  [60, "1 min"],
  [95, "1 min 35 s"],
  [7260, "2 h 1 min"],
  [90_000, "1 d 1 h"],
])("formatDuration(%d)", (seconds, text) => expect(formatDuration(seconds)).toBe(text));

test("times and sizes", () => {
  expect(formatAgo("2026-01-01T00:00:00Z", Date.parse("2026-01-01T00:05:00Z"))).toBe("5 min ago");
  expect(formatTimeout(0)).toBe("never");
  expect(formatMemory(512)).toBe("512 MiB");
  expect(formatMemory(1536)).toBe("1.5 GiB");
});

test("a sparkline has at most the width asked for and shows the extremes", () => {
  expect(sparkline([0, 50, 100], 100, 10)).toBe("▁▅█");
  expect(sparkline([], 100, 10)).toBe("");
  expect(sparkline([5, 5], 0, 10)).toBe("▁▁");
  const long = sparkline(
    Array.from({ length: 600 }, (_, index) => index),
    600,
    40,
  );
  expect(long).toHaveLength(40); // bars are single UTF-16 units
  expect(long.startsWith("▁")).toBe(true);
  expect(long.endsWith("█")).toBe(true);
});

test("control characters are shown, not sent", () => {
  expect(printable("a\tb\u001b[2Jc\u0000\u009f\u202e\n")).toBe("a\tb\\x1b[2Jc\\x00\\x9f\\u202e\\x0a");
  expect(printable("grüße 漢字 🐦")).toBe("grüße 漢字 🐦");
});

test("tables and fields line up and have no trailing blanks", () => {
  const colors = picocolors.createColors(false);
  expect(
    formatTable(
      colors,
      ["A", "B"],
      [
        ["1", "x"],
        ["22", "y"],
      ],
    ),
  ).toBe("A   B\n1   x\n22  y");
  expect(
    formatFields(colors, [
      ["a", "1\n2"],
      ["bb", undefined],
      ["ccc", "3"],
    ]),
  ).toBe("a    1\n     2\nccc  3");
});

test("write waits for a slow reader and fails for one that has gone", async () => {
  const slow = new PassThrough({ highWaterMark: 4 });
  let isDone = false;
  const writing = write(slow, "0123456789").then(() => (isDone = true));
  await new Promise((resolve) => setImmediate(resolve));
  expect(isDone).toBe(false);
  slow.resume();
  await writing;

  const broken = new Writable({
    highWaterMark: 1,
    write: (_chunk, _encoding, done) => done(Object.assign(new Error("broken"), { code: "EPIPE" })),
  });
  broken.on("error", () => undefined);
  await expect(write(broken, "xx")).rejects.toBeInstanceOf(BrokenPipeError);
  await expect(write(broken, "x")).rejects.toBeInstanceOf(BrokenPipeError);
});

test("new bytes of a growing text are found, whatever the window (seeded)", () => {
  const random = new SeededRandom();
  for (let round = 0; round < 300; round += 1) {
    const before = 300 + random.integer(2000);
    const text = Buffer.from(Array.from({ length: 4000 }, () => "ab\n"[random.integer(3)] ?? "").join(""));
    const after = before + random.integer(1000);
    const window = 600 + random.integer(2000);
    const seen = text.subarray(Math.max(0, before - window), before);
    const latest = text.subarray(Math.max(0, after - window), after);
    const expected = after - before <= window - 300 ? text.subarray(before, after) : undefined;
    if (expected !== undefined) expect(newBytes(seen, latest).toString(), `SEED=${random.seed}`).toBe(expected.toString());
  }
  expect(newBytes(Buffer.from("old"), Buffer.from("quite new")).toString()).toBe("quite new");
  expect(newBytes(Buffer.alloc(0), Buffer.from("first")).toString()).toBe("first");
});
