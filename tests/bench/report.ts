/** What a figure should reach: which of its numbers, and how far. */
export interface Reach {
  readonly of: "p50" | "p99" | "speedup";
  readonly atMost?: number;
  readonly atLeast?: number;
}

/** One measured thing. `baseline` is the p50 of something comparable in the same run, `ratio` is p50 / baseline. */
export interface Row {
  readonly name: string;
  readonly unit: string;
  readonly n: number;
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly baseline?: number;
  /** What the baseline is */
  readonly baselineName?: string;
  readonly ratio?: number;
  readonly reach?: { readonly text: string; readonly met: boolean };
}

export interface RowOptions {
  readonly baseline?: { readonly name: string; readonly values: readonly number[] } | undefined;
  /** All of them must be met */
  readonly reach?: readonly Reach[];
}

/** Nearest-rank percentile: a value that was measured, never one in between. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

export const median = (values: readonly number[]) => percentile(values, 0.5);

export function row(name: string, unit: string, values: readonly number[], { baseline, reach }: RowOptions = {}): Row {
  if (values.length === 0 || values.some((value) => !Number.isFinite(value))) {
    throw new Error(`"${name}" was not measured: ${values.length === 0 ? "no samples" : values.join(", ")}`);
  }
  const numbers = { p50: median(values), p95: percentile(values, 0.95), p99: percentile(values, 0.99) };
  const base = baseline === undefined ? undefined : median(baseline.values);
  return {
    name,
    unit,
    n: values.length,
    p50: rounded(numbers.p50),
    p95: rounded(numbers.p95),
    p99: rounded(numbers.p99),
    ...(base === undefined ? {} : { baseline: rounded(base), baselineName: baseline?.name ?? "", ratio: rounded(numbers.p50 / base) }),
    ...(reach === undefined ? {} : { reach: judge(reach, { ...numbers, speedup: base === undefined ? Number.NaN : base / numbers.p50 }) }),
  };
}

function judge(reaches: readonly Reach[], numbers: Readonly<Record<Reach["of"], number>>): { text: string; met: boolean } {
  const parts = reaches.map(({ of, atMost, atLeast }) => {
    if (of === "speedup") return `${atLeast}× faster than its baseline (${rounded(numbers.speedup)}×)`;
    return atMost === undefined ? `${of} ≥ ${atLeast}` : `${of} ≤ ${atMost}`;
  });
  // NaN meets nothing: a reach that was not measured is missed
  const met = reaches.every(({ of, atMost = Infinity, atLeast = -Infinity }) => numbers[of] <= atMost && numbers[of] >= atLeast);
  return { text: parts.join(" and "), met };
}

function rounded(value: number): number {
  return Number(value.toPrecision(4));
}

export function formatRow({ name, unit, n, p50, p95, p99, baseline, baselineName, ratio, reach }: Row): string {
  const number = (value: number) => String(value).padStart(8);
  const compared = baseline === undefined ? "" : `   baseline ${baseline} (${baselineName}), ratio ${ratio}`;
  const judged = reach === undefined ? "" : `   reach ${reach.text}: ${reach.met ? "met" : "MISSED"}`;
  return `${name.padEnd(66)} ${unit.padEnd(5)} n=${String(n).padEnd(4)} p50 ${number(p50)}  p95 ${number(p95)}  p99 ${number(p99)}${compared}${judged}\n`;
}

/** As a table for a page. */
export function markdown(rows: readonly Row[]): string {
  const lines = rows.map(({ name, unit, n, p50, p95, p99, baseline, baselineName, ratio, reach }) =>
    [
      "",
      name,
      unit,
      n,
      p50,
      p95,
      p99,
      baseline === undefined ? "" : `${baseline} (${baselineName}): ${ratio}`,
      reach === undefined ? "" : `${reach.text}: ${reach.met ? "met" : "**missed**"}`,
      "",
    ]
      .join(" | ")
      .trim(),
  );
  const head = ["| what | unit | n | p50 | p95 | p99 | baseline: ratio | reach |", "| --- | --- | --- | --- | --- | --- | --- | --- |"];
  return `${[...head, ...lines].join("\n")}\n`;
}

export const rowHeader = "Nearest-rank percentiles; ratios compare p50 with a baseline measured in this same run.";
