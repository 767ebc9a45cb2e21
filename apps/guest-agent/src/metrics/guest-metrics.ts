import { readFile, statfs } from "node:fs/promises";

import type { GuestMetrics } from "@roost/contract";

/** Ticks of /proc/stat since boot, over all CPUs. */
export interface CpuTicks {
  readonly busy: number;
  readonly total: number;
}

/** Measures the guest when asked; no timer. CPU use is that since the call before, since boot at the first. */
export class GuestMetricsSource {
  #previous: CpuTicks = { busy: 0, total: 0 };

  async measure(): Promise<GuestMetrics> {
    const [stat, meminfo, disk] = await Promise.all([readFile("/proc/stat", "utf8"), readFile("/proc/meminfo", "utf8"), statfs("/")]);
    const ticks = parseCpuTicks(stat);
    const usedPct = cpuUsedPct(this.#previous, ticks);
    this.#previous = ticks;
    const memory = parseMeminfo(meminfo);
    return {
      ts: Math.floor(Date.now() / 1_000),
      cpu_count: stat.match(/^cpu\d+ /gm)?.length ?? 1,
      cpu_used_pct: usedPct,
      mem_total: memory.total,
      mem_used: memory.total - memory.available,
      mem_cache: memory.cached,
      disk_used: (disk.blocks - disk.bfree) * disk.bsize,
      disk_total: disk.blocks * disk.bsize,
    };
  }
}

/** First line of /proc/stat: user nice system idle iowait irq softirq steal (guest time is in user already). */
export function parseCpuTicks(stat: string): CpuTicks {
  const ticks = (/^cpu +(?<ticks>[\d ]+)/.exec(stat)?.groups?.["ticks"] ?? "").split(" ").map(Number).slice(0, 8);
  const total = ticks.reduce((sum, value) => sum + value, 0);
  return { busy: total - (ticks[3] ?? 0) - (ticks[4] ?? 0), total };
}

/** 0 to 100; two decimals. */
export function cpuUsedPct(before: CpuTicks, after: CpuTicks): number {
  const total = after.total - before.total;
  if (total <= 0) return 0;
  const pct = ((after.busy - before.busy) / total) * 100;
  return Math.round(Math.min(Math.max(pct, 0), 100) * 100) / 100;
}

/** In `bytes`. Cached is what `free` shows as cache: page cache and reclaimable slab. */
export function parseMeminfo(meminfo: string): { readonly total: number; readonly available: number; readonly cached: number } {
  const field = (name: string) => Number(new RegExp(`^${name}: +(?<kib>\\d+) kB`, "m").exec(meminfo)?.groups?.["kib"] ?? 0) * 1024;
  return { total: field("MemTotal"), available: field("MemAvailable"), cached: field("Cached") + field("SReclaimable") };
}
