import { expect, test } from "vitest";

import { markdown, percentile, row } from "./report.ts";

test("percentiles are values that were measured", () => {
  const values = [5, 1, 4, 2, 3];
  expect([0.5, 0.95, 0.99].map((share) => percentile(values, share))).toEqual([3, 5, 5]);
  expect(percentile([7], 0.5)).toBe(7);
});

test("a reach is met only when all of it is, and what was not measured meets nothing", () => {
  const fast = { of: "p50", atMost: 3 } as const;
  const faster = { of: "speedup", atLeast: 15 } as const;
  const slow = { name: "slow", values: [50] };
  expect(row("x", "ms", [1, 2, 3], { reach: [fast] }).reach).toEqual({ text: "p50 ≤ 3", met: true });
  expect(row("x", "ms", [4], { reach: [fast] }).reach?.met).toBe(false);
  expect(row("x", "ms", [3], { reach: [fast, faster], baseline: slow })).toMatchObject({ ratio: 0.06, reach: { met: true } });
  expect(row("x", "ms", [3], { reach: [fast, faster], baseline: { name: "slow", values: [44] } }).reach?.met).toBe(false);
  expect(row("x", "ms", [3], { reach: [fast, faster] }).reach?.met).toBe(false);
});

test("no samples, or one that is no number, is no row", () => {
  expect(() => row("x", "ms", [])).toThrow(/"x" was not measured: no samples/);
  expect(() => row("x", "ms", [1, Number.NaN])).toThrow(/was not measured/);
});

test("a table for a page says what was missed", () => {
  const rows = [
    row("one", "ms", [4], { reach: [{ of: "p50", atMost: 3 }] }),
    row("two", "MiB", [1], { baseline: { name: "b", values: [2] } }),
  ];
  expect(markdown(rows).trim().split("\n").slice(2)).toEqual([
    "| one | ms | 1 | 4 | 4 | 4 |  | p50 ≤ 3: **missed** |",
    "| two | MiB | 1 | 1 | 1 | 1 | 2 (b): 0.5 |  |",
  ]);
});
