import { expect, test } from "vitest";

import { parseCpuTimeSec } from "./cpu-time.ts";
import { Ring } from "./ring.ts";
import { SandboxMetrics } from "./sandbox-metrics.ts";

const point = (timeUnixSec: number) => ({
  timeUnixSec,
  cpuPercent: timeUnixSec % 100,
  memoryBytes: 2 ** 36 + timeUnixSec,
  cacheBytes: 3,
  diskBytes: 7,
});

test("a ring keeps the newest points, oldest first", () => {
  const ring = new Ring(3);
  expect(ring.points(0)).toEqual([]);
  for (const time of [1, 2, 3, 4, 5]) ring.push(point(time));
  expect(ring.points(0)).toEqual([point(3), point(4), point(5)]);
  expect(ring.points(5)).toEqual([point(5)]);
});

const answer = { ts: 1, cpu_count: 1, cpu_used_pct: 1, mem_total: 100, mem_used: 40, mem_cache: 1, disk_used: 7, disk_total: 9 };

test("three tiers: 1 s for 10 min, averages of 30 s for 2 h, of 5 min for 24 h", () => {
  const metrics = new SandboxMetrics();
  metrics.setGuest(answer);
  const daySec = 86_400;
  for (let second = 1; second <= 2 * daySec; second += 1) {
    // Each block of 30 s averages 50: 0 in its first half, 100 in the other
    metrics.push(second, (second - 1) % 30 < 15 ? 0 : 100);
  }
  const now = 2 * daySec;
  const counts = (["5m", "10m", "1h", "2h", "6h", "12h", "24h"] as const).map((range) => metrics.points(range, now).length);
  expect(counts).toEqual([301, 600, 121, 240, 73, 145, 288]);
  expect(new Set(metrics.points("10m", now).map(({ cpuPercent }) => cpuPercent))).toEqual(new Set([0, 100]));
  expect(new Set(metrics.points("2h", now).map(({ cpuPercent }) => cpuPercent))).toEqual(new Set([50]));
  expect(new Set(metrics.points("24h", now).map(({ cpuPercent }) => cpuPercent))).toEqual(new Set([50]));
});

test("all points are in order, each instant once, the newest in the finest steps", () => {
  const metrics = new SandboxMetrics();
  expect(metrics.allPoints()).toEqual([]);
  metrics.setGuest(answer);
  const lastSec = 20_000;
  for (let second = 1; second <= lastSec; second += 1) metrics.push(second, 50);
  const times = metrics.allPoints().map(({ timeUnixSec }) => timeUnixSec);
  expect(times).toEqual([...new Set(times)].toSorted((one, other) => one - other));
  expect([times[0], times.at(-1)]).toEqual([300, lastSec]);
  const steps = new Set(times.slice(1).map((time, index) => time - (times[index] ?? 0)));
  expect([...steps].filter((step) => [300, 30, 1].includes(step))).toEqual([300, 30, 1]);
});

test("points begin with the guest's first answer and carry what it said last", () => {
  const metrics = new SandboxMetrics();
  metrics.push(1, 10);
  metrics.setGuest(answer);
  metrics.push(2, 20);
  expect(metrics.points("5m", 2)).toEqual([{ timeUnixSec: 2, cpuPercent: 20, memoryBytes: 40, cacheBytes: 1, diskBytes: 7 }]);
});

test("CPU time is read past any process name, and never of another process with the same pid", () => {
  const stat = `42 (a) b (c)) S ${Array.from({ length: 40 }, (_, index) => index + 4).join(" ")}`;
  expect(parseCpuTimeSec(stat, "22")).toBe((14 + 15) / 100);
  expect(parseCpuTimeSec(stat, "23")).toBeUndefined();
});
