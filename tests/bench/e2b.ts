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
/** Sandboxes whose time is let run out */
const expiryCount = 10;
/** Their time in `ms`: long enough to look at them before, on a slow machine */
const expiryTimeoutMs = 4_000;
/** How precise the end of a sandbox's time is to be, in `ms` */
const expiryReachMs = 500;
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

      for (const onTimeout of ["kill", "pause"] as const) {
        const late: number[] = [];
        for (let left = bench.samples(expiryCount); left > 0; left -= 1) {
          await rest();
          late.push(await lateness(client, onTimeout));
        }
        bench.report(
          row(`E2B SDK: from the end of a sandbox's time (${onTimeout}) to the end of its command`, "ms", late, {
            reach: [{ of: "p99", atMost: expiryReachMs }],
          }),
        );
      }
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

/**
 * Time in `ms` from the end of a sandbox's time until the command that ran in it is cut off. Readers are told sooner: that a time is up is seen by comparing.
 */
async function lateness({ Sandbox }: E2B, onTimeout: "kill" | "pause"): Promise<number> {
  const sandbox = await Sandbox.create({ timeoutMs: expiryTimeoutMs, lifecycle: { onTimeout } });
  const { endAt } = await sandbox.getInfo();
  const command = await sandbox.commands.run("sleep 3600", { background: true, timeoutMs: 0 });
  await command.wait().then(
    () => Promise.reject(new Error("the command of a sandbox whose time was up ended by itself")),
    () => undefined,
  );
  const lateMs = Date.now() - endAt.getTime();
  await sandbox.kill();
  return lateMs;
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
