import type { SandboxState } from "@roost/contract";

import type { Colors } from "../context.ts";

/** `95` → `1 min 35 s`; at most two units. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return two(Math.trunc(whole / 60), "min", whole % 60, "s");
  if (whole < 86_400) return two(Math.trunc(whole / 3600), "h", Math.trunc((whole % 3600) / 60), "min");
  return two(Math.trunc(whole / 86_400), "d", Math.trunc((whole % 86_400) / 3600), "h");
}

function two(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
}

/** An instant as time that has passed. */
export function formatAgo(instant: string, nowMs: number = Date.now()): string {
  return `${formatDuration((nowMs - Date.parse(instant)) / 1000)} ago`;
}

export function formatTimeout(seconds: number): string {
  return seconds === 0 ? "never" : formatDuration(seconds);
}

export function formatMemory(mib: number): string {
  return mib >= 1024 && mib % 512 === 0 ? `${mib / 1024} GiB` : `${mib} MiB`;
}

export function formatState(state: SandboxState, colors: Colors): string {
  if (state === "running") return colors.green(state);
  if (state === "failed") return colors.red(state);
  if (state === "stopped") return colors.dim(state);
  return state === "paused" ? colors.cyan(state) : colors.yellow(state);
}

const bars = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"] as const;

/** A row of values as bars, the newest on the right; `max` is a full bar. */
export function sparkline(values: readonly number[], max: number, width: number): string {
  const step = Math.max(1, values.length / width);
  let line = "";
  for (let start = Math.max(0, values.length - step * width); Math.round(start) < values.length; start += step) {
    const part = values.slice(Math.round(start), Math.max(Math.round(start) + 1, Math.round(start + step)));
    const mean = part.reduce((sum, value) => sum + value, 0) / part.length;
    const index = max <= 0 ? 0 : Math.round((mean / max) * (bars.length - 1));
    line += bars[Math.min(bars.length - 1, Math.max(0, index))] ?? "";
  }
  return line;
}
