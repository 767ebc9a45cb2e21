import { expect, test } from "vitest";

import { cpuUsedPct, parseCpuTicks, parseMeminfo } from "./guest-metrics.ts";

test("CPU use is the busy part of the ticks between two looks", () => {
  const before = parseCpuTicks("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2 3\n");
  const after = parseCpuTicks("cpu  150 0 125 900 20 5 0 0 50 0\ncpu0 1 2 3\n");
  expect(before).toEqual({ busy: 200, total: 1000 });
  expect(cpuUsedPct(before, after)).toBe(40);
});

test("no time, or a counter that went back, is no use", () => {
  expect(cpuUsedPct({ busy: 5, total: 10 }, { busy: 5, total: 10 })).toBe(0);
  expect(cpuUsedPct({ busy: 9, total: 10 }, { busy: 1, total: 20 })).toBe(0);
  expect(parseCpuTicks("garbage")).toMatchObject({ total: 0 });
});

test("memory is in bytes; what is missing is 0", () => {
  expect(parseMeminfo("MemTotal:        1000 kB\nMemAvailable:     400 kB\nCached:            50 kB\nSReclaimable:       5 kB\n")).toEqual({
    total: 1_024_000,
    available: 409_600,
    cached: 56_320,
  });
  expect(parseMeminfo("")).toEqual({ total: 0, available: 0, cached: 0 });
});
