import { poll } from "@roost/kit";

import type { TestPlatform } from "../support/test-platform.ts";
import { withMemoryImages, type Bench, type Group } from "./bench.ts";
import { coldBoots } from "./cold-boot.ts";
import { firstOutput, mustStartBy, rest } from "./measure.ts";
import { cpuMs, vmmsOf } from "./processes.ts";
import { Profile } from "./profile.ts";
import { row, type Reach } from "./report.ts";

/** Time a waiting VM may take to be made in `ms`. */
const refillTimeoutMs = 30_000;
/** A VM that used no CPU for this long in `ms` stands still. */
const standstillMs = 800;

/** Create to the first command's output, from memory, with no VM waiting. */
export const restoreGroup: Group = {
  name: "restore",
  run: async (bench) => {
    const baseline = { name: "cold boot", values: await coldBoots(bench) };
    await withMemoryImages({}, async (platform) => {
      await measureStarts(bench, platform, {
        path: "restore",
        name: "from the memory image, pool empty",
        ready: rest,
        baseline,
        reach: [
          { of: "p50", atMost: 350 },
          { of: "speedup", atLeast: 15 },
        ],
      });
    });
  },
};

/** The same when a VM waits. */
export const poolGroup: Group = {
  name: "pool",
  run: async (bench) => {
    const baseline = { name: "cold boot", values: await coldBoots(bench) };
    await withMemoryImages({ ROOST_POOL_SIZES: "base=1" }, async (platform) => {
      await measureStarts(bench, platform, {
        path: "pool",
        name: "with a warm pool",
        ready: () => untilOneWaits(platform),
        baseline,
        reach: [{ of: "p50", atMost: 130 }],
      });
    });
  },
};

interface Starts {
  readonly path: "restore" | "pool";
  readonly name: string;
  /** Resolves when the next one may be started */
  readonly ready: () => Promise<void>;
  readonly baseline: { readonly name: string; readonly values: readonly number[] };
  readonly reach: readonly Reach[];
}

async function measureStarts(bench: Bench, platform: TestPlatform, { path, name, ready, baseline, reach }: Starts): Promise<void> {
  const profile = new Profile(platform, bench.flags.profile);
  const toOutput: number[] = [];
  const created: number[] = [];
  for (let left = bench.samples(30); left > 0; left -= 1) {
    await ready();
    let id = "";
    const ms = await profile.sample(async (step) => {
      const startMs = performance.now();
      const answer = await platform.client.sandboxes.create({ timeout_sec: 0 });
      const answeredMs = performance.now();
      await firstOutput(platform.client.sandbox(answer.id));
      const outputMs = performance.now();
      step("create", answeredMs - startMs);
      step("first command", outputMs - answeredMs);
      created.push(answeredMs - startMs);
      id = answer.id;
      mustStartBy(path, answer);
      return outputMs - startMs;
    });
    toOutput.push(ms);
    await platform.client.sandboxes.delete(id);
  }
  bench.report(row(`create to first command's output, ${name}`, "ms", toOutput, { baseline, reach }), profile);
  bench.report(row(`  of which until create answers`, "ms", created));
}

/** The one VM of the pool has been made and stopped. No other VM runs. */
async function untilOneWaits(platform: TestPlatform): Promise<void> {
  let usedMs = -1;
  let waiting: number | undefined;
  await poll({ what: "a VM that waits", timeoutMs: refillTimeoutMs, intervalMs: standstillMs }, async () => {
    const [pid, ...others] = await vmmsOf(platform.folder);
    if (pid === undefined || others.length > 0) return undefined;
    const nowMs = await cpuMs(pid).catch(() => -1); // ended while we looked
    const isStill = pid === waiting && nowMs >= 0 && nowMs === usedMs;
    waiting = pid;
    usedMs = nowMs;
    return isStill ? true : undefined;
  });
}
