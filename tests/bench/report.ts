/** One measured thing. `baseline` is the p50 of something comparable in the same run, `ratio` is p50 / baseline. */
export interface Row {
  readonly name: string;
  readonly unit: string;
  readonly n: number;
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly baseline?: number;
  readonly ratio?: number;
}

/** Nearest-rank percentile: a value that was measured, never one in between. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

export function row(name: string, unit: string, values: readonly number[], baseline?: readonly number[]): Row {
  const p50 = percentile(values, 0.5);
  const base = baseline === undefined ? undefined : percentile(baseline, 0.5);
  return {
    name,
    unit,
    n: values.length,
    p50: rounded(p50),
    p95: rounded(percentile(values, 0.95)),
    p99: rounded(percentile(values, 0.99)),
    ...(base === undefined ? {} : { baseline: rounded(base), ratio: rounded(p50 / base) }),
  };
}

function rounded(value: number): number {
  return Number(value.toPrecision(4));
}

export function printRow({ name, unit, n, p50, p95, p99, baseline, ratio }: Row): void {
  const number = (value: number) => String(value).padStart(9);
  const compared = baseline === undefined ? "" : `   baseline ${baseline}, ratio ${ratio}`;
  process.stdout.write(
    `${name.padEnd(58)} ${unit.padEnd(6)} n=${String(n).padEnd(4)} p50 ${number(p50)}  p95 ${number(p95)}  p99 ${number(p99)}${compared}\n`,
  );
}

export const rowHeader = "Nearest-rank percentiles; ratios compare p50 with a baseline measured in this same run.";
