import { sleep } from "@roost/kit";
import { E2B } from "e2b";

import { e2bEnvironment } from "../support/e2b-environment.ts";
import type { TestPlatform } from "../support/test-platform.ts";
import { withMemoryImages, type Bench, type Group } from "./bench.ts";
import { rest } from "./measure.ts";
import { row } from "./report.ts";

/** Time between starts in `ms` that do not wait for each other, as hosted platforms are compared. */
const staggerMs = 200;
const sampleCount = 50;
const burstCount = 20;
/** Longest that one attempt may take in `ms`; the SDK's own limit for one request is as long. */
const attemptTimeoutMs = 60_000;

/** One `Sandbox.create()` and `commands.run("echo hi")`, or why it failed. */
type Attempt = { readonly ms: number; readonly createMs: number } | { readonly failure: string };

/** What a program sees that uses the E2B SDK: with the default pool, and sandboxes killed as soon as they have answered. */
export const e2bGroup: Group = {
  name: "e2b",
  run: async (bench) => {
    await withMemoryImages({ ROOST_POOL_SIZES: "base=2" }, async (platform) => {
      const client = clientOf(platform);
      const count = bench.samples(sampleCount);
      await rest();
      const oneByOne: Attempt[] = [];
      for (let left = count; left > 0; left -= 1) {
        oneByOne.push(await attempt(client));
        await rest();
      }
      report(bench, "one after the other", oneByOne);

      const staggered: Promise<Attempt>[] = [];
      for (let left = count; left > 0; left -= 1) {
        staggered.push(attempt(client));
        await sleep(staggerMs);
      }
      report(bench, `one every ${staggerMs} ms`, await Promise.all(staggered));

      await rest();
      const burst = Array.from({ length: bench.samples(burstCount) }, () => attempt(client));
      report(bench, `${burst.length} at once`, await Promise.all(burst));
    });
  },
};

function clientOf(platform: TestPlatform): E2B {
  const { E2B_API_KEY: apiKey, E2B_API_URL: apiUrl, E2B_SANDBOX_URL: sandboxUrl } = e2bEnvironment(platform);
  return new E2B({ apiKey, apiUrl, sandboxUrl, requestTimeoutMs: attemptTimeoutMs });
}

async function attempt({ Sandbox }: E2B): Promise<Attempt> {
  const startMs = performance.now();
  try {
    const sandbox = await Sandbox.create();
    const createMs = performance.now() - startMs;
    try {
      const { stdout } = await sandbox.commands.run("echo hi");
      if (stdout !== "hi\n") return { failure: `printed ${JSON.stringify(stdout)}` };
      return { ms: performance.now() - startMs, createMs };
    } finally {
      await sandbox.kill();
    }
  } catch (error) {
    return { failure: error instanceof Error ? `${error.constructor.name}: ${error.message}` : String(error) };
  }
}

function report(bench: Bench, how: string, attempts: readonly Attempt[]): void {
  const good = attempts.filter((each) => "ms" in each);
  const failures = attempts.flatMap((each) => ("failure" in each ? [each.failure] : []));
  for (const failure of new Set(failures)) process.stdout.write(`  failed: ${failure}\n`);
  if (good.length > 0) {
    bench.report(
      row(
        `E2B SDK: create to the end of echo, ${how}`,
        "ms",
        good.map(({ ms }) => ms),
      ),
    );
    bench.report(
      row(
        "  of which until create answers",
        "ms",
        good.map(({ createMs }) => createMs),
      ),
    );
  }
  const share = (100 * good.length) / attempts.length;
  bench.report(row(`  that succeeded, of ${attempts.length}`, "%", [share], { reach: [{ of: "p50", atLeast: 100 }] }));
}
