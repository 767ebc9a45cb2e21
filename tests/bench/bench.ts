import { TestPlatform, type PlatformSettings } from "../support/test-platform.ts";
import type { Profile } from "./profile.ts";
import { formatRow, type Row } from "./report.ts";

export interface BenchFlags {
  readonly quick: boolean;
  readonly profile: boolean;
}

/** Rows that belong together, measured on platforms of their own. */
export interface Group {
  /** For `--only` */
  readonly name: string;
  /** Takes long and much memory: left out with `--quick` */
  readonly isHeavy?: boolean;
  readonly run: (bench: Bench) => Promise<void>;
}

/** One run of the benchmarks: how many samples, where rows go, and what several groups compare themselves with. */
export class Bench {
  readonly flags: BenchFlags;
  readonly rows: Row[] = [];
  readonly #kept = new Map<string, Promise<readonly number[]>>();

  constructor(flags: BenchFlags) {
    this.flags = flags;
  }

  /** Samples of a row; `--quick` takes a fifth. */
  samples(full: number): number {
    return this.flags.quick ? Math.max(2, Math.round(full / 5)) : full;
  }

  report(row: Row, profile?: Profile): void {
    this.rows.push(row);
    process.stdout.write(formatRow(row));
    if (this.flags.profile && profile !== undefined) process.stdout.write(profile.text());
  }

  /** Measures a baseline once per run, however many groups ask for it. */
  once(name: string, measure: () => Promise<readonly number[]>): Promise<readonly number[]> {
    const known = this.#kept.get(name) ?? measure();
    this.#kept.set(name, known);
    return known;
  }
}

const live = new Set<TestPlatform>();

/** Work with a platform that has nothing else to do; its end ends everything it started. */
export async function withPlatform<Result>(settings: PlatformSettings, work: (platform: TestPlatform) => Promise<Result>): Promise<Result> {
  await using platform = await TestPlatform.start(settings);
  live.add(platform);
  try {
    return await work(platform);
  } finally {
    live.delete(platform);
  }
}

/** What runs now fails at its next request; then its platform is started again and ends what is left of it, as after any failure. */
export async function interrupt(): Promise<void> {
  for (const platform of live) await platform.killHard();
}

/** The same, where sandboxes start from memory. */
export async function withMemoryImages<Result>(
  settings: PlatformSettings,
  work: (platform: TestPlatform) => Promise<Result>,
): Promise<Result> {
  return withPlatform(settings, async (platform) => {
    await platform.untilMemoryImage();
    return work(platform);
  });
}
