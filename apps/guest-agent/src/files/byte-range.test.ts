import { SeededRandom } from "@roost/testing";
import { expect, test } from "vitest";

import { parseRange } from "./byte-range.ts";

test.each([
  ["bytes=0-0", 10, { start: 0, end: 0 }],
  ["bytes=2-5", 10, { start: 2, end: 5 }],
  ["bytes=2-", 10, { start: 2, end: 9 }],
  ["bytes=-3", 10, { start: 7, end: 9 }],
  ["bytes=-30", 10, { start: 0, end: 9 }],
  ["bytes=5-99999999999999999999", 10, { start: 5, end: 9 }],
  [" Bytes = 1 - 2 ", 10, { start: 1, end: 2 }],
  ["bytes=10-", 10, "unsatisfiable"],
  ["bytes=99999999999999999999-", 10, "unsatisfiable"],
  ["bytes=-0", 10, "unsatisfiable"],
  ["bytes=0-0", 0, "unsatisfiable"],
  ["bytes=-1", 0, "unsatisfiable"],
  ["bytes=5-2", 10, undefined],
  ["bytes=-", 10, undefined],
  ["bytes=0-1,3-4", 10, undefined],
  ["bytes=a-b", 10, undefined],
  ["items=0-1", 10, undefined],
  ["bytes=0x1-2", 10, undefined],
  ["bytes=1.5-2", 10, undefined],
  ["", 10, undefined],
  [undefined, 10, undefined],
] as const)("%j of %i bytes", (header, size, expected) => {
  expect(parseRange(header, size)).toEqual(expected);
});

test("whatever the header, a range lies within the file", () => {
  const random = new SeededRandom();
  const pieces = ["bytes", "=", "-", ",", "0", "7", "99", " ", "18446744073709551616", "-1", "\t", "e9", "NaN"] as const;
  for (let round = 0; round < 5000; round += 1) {
    const header = `${random.integer(2) === 0 ? "bytes=" : ""}${Array.from({ length: random.integer(6) }, () => random.pick(pieces)).join("")}`;
    const size = random.integer(20);
    const range = parseRange(header, size);
    if (range === undefined || range === "unsatisfiable") continue;
    const what = `SEED=${random.seed} ${JSON.stringify(header)} of ${size}`;
    expect(range.start, what).toBeGreaterThanOrEqual(0);
    expect(range.end, what).toBeGreaterThanOrEqual(range.start);
    expect(range.end, what).toBeLessThan(size);
  }
});
