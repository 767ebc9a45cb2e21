import { join } from "node:path";

import { MiB, must, sleep } from "@roost/kit";
import type { SandboxHandle } from "@roost/sdk";
import { SeededRandom } from "@roost/testing";

import type { TestPlatform } from "../support/test-platform.ts";
import { withMemoryImages, type Bench, type Group } from "./bench.ts";
import { diskUsage } from "./disk-usage.ts";
import { eachAtOnce, firstOutput, mustStartBy, timed } from "./measure.ts";
import { availableMib, cpuMs, pssMib, vmmsOf } from "./processes.ts";
import { row } from "./report.ts";

const sandboxCount = 200;
const quickCount = 12;
const createdAtOnce = 4;
const pausedAtOnce = 8;
const resumedCount = 20;
const requestCount = 300;
/** Memory that must stay available in `MiB`: below it the machine would swap, or end processes, before anything could be said. */
const availableMibMin = 2_048;
const settleMs = 15_000;
const idleWindowMs = 20_000;

/** Many sandboxes alive at once that do nothing, then all paused, then some of them back. */
export const densityGroup: Group = {
  name: "density",
  isHeavy: true,
  run: async (bench) => {
    const count = bench.flags.quick ? quickCount : sandboxCount;
    const settings = { ROOST_MEMORY_OVERCOMMIT: "8", ROOST_SANDBOX_COUNT_MAX: "256" } as const;
    await withMemoryImages(settings, async (platform) => {
      const random = new SeededRandom(1);
      const beforeMib = await availableMib();
      const sandboxes = await createAll(bench, platform, count);
      await sleep(settleMs);
      const usedMib = beforeMib - (await availableMib());
      await answerAll(bench, sandboxes);
      await mixedRequests(bench, platform, sandboxes, random);
      await sleep(settleMs);
      await usage(bench, platform, count, usedMib);
      await pauseAll(bench, platform, sandboxes);
      await resumeSome(bench, sandboxes, random);
    });
  },
};

async function createAll(bench: Bench, platform: TestPlatform, count: number): Promise<SandboxHandle[]> {
  const made: SandboxHandle[] = [];
  const each: number[] = [];
  const totalMs = await timed(() =>
    eachAtOnce(createdAtOnce, Array.from({ length: count }), async () => {
      await mustHaveMemory(`${made.length} of ${count} sandboxes run`);
      each.push(
        await timed(async () => {
          const answer = await platform.client.sandboxes.create({ timeout_sec: 0 });
          mustStartBy("restore", answer);
          made.push(platform.client.sandbox(answer.id));
        }),
      );
    }),
  );
  bench.report(row(`density: create of ${count}, ${createdAtOnce} at once, each`, "ms", each));
  bench.report(row("density: create of all", "s", [totalMs / 1_000]));
  return made;
}

async function mustHaveMemory(when: string): Promise<void> {
  const mib = Math.round(await availableMib());
  if (mib < availableMibMin) throw new Error(`${when} and only ${mib} MiB of memory are available: given up before the machine suffers`);
}

async function answerAll(bench: Bench, sandboxes: readonly SandboxHandle[]): Promise<void> {
  const each: number[] = [];
  await eachAtOnce(createdAtOnce, sandboxes, async (sandbox) => {
    each.push(await timed(() => mustSucceed(sandbox)));
  });
  bench.report(row(`density: the first command of each, ${createdAtOnce} at once`, "ms", each));
}

async function mustSucceed(sandbox: SandboxHandle): Promise<void> {
  const { exit_code: code } = await sandbox.exec("true");
  if (code !== 0) throw new Error(`true in ${sandbox.id} exited with ${code}`);
}

/** One after the other, as one client would: what they wait for is the other sandboxes. */
async function mixedRequests(
  bench: Bench,
  platform: TestPlatform,
  sandboxes: readonly SandboxHandle[],
  random: SeededRandom,
): Promise<void> {
  const requests = [
    (sandbox: SandboxHandle) => sandbox.get(),
    (sandbox: SandboxHandle) => mustSucceed(sandbox),
    () => platform.client.sandboxes.listPage({ limit: 100 }),
  ];
  const each: number[] = [];
  for (let left = bench.samples(requestCount); left > 0; left -= 1) {
    const request = pick(requests, random);
    const sandbox = pick(sandboxes, random);
    each.push(await timed(() => request(sandbox)));
  }
  bench.report(row(`density: get, exec of true, list on random ones`, "ms", each, { reach: [{ of: "p99", atMost: 1_000 }] }));
}

async function usage(bench: Bench, platform: TestPlatform, count: number, usedMib: number): Promise<void> {
  const vmms = await vmmsOf(platform.folder);
  if (vmms.length !== count) throw new Error(`${count} sandboxes should run, and ${vmms.length} VMMs do`);
  const pss = await Promise.all(vmms.map(pssMib));
  bench.report(row("density: memory of each (PSS of its VMM)", "MiB", pss));
  bench.report(row("density: memory that all of them took from the machine", "MiB", [usedMib]));
  bench.report(row("density: memory of the platform (PSS)", "MiB", [await pssMib(platform.pid)]));
  const pids = [...vmms, platform.pid];
  const before = await Promise.all(pids.map(cpuMs));
  const startMs = performance.now();
  await sleep(idleWindowMs);
  const elapsedSec = (performance.now() - startMs) / 1_000;
  const rates = (await Promise.all(pids.map(cpuMs))).map((total, index) => (total - (before[index] ?? 0)) / elapsedSec);
  const ofPlatform = rates.pop() ?? Number.NaN;
  bench.report(row("density: CPU of each idle one, per second", "ms", rates, { reach: [{ of: "p50", atMost: 10 }] }));
  bench.report(row("density: CPU of all of them, per second", "ms", [rates.reduce((total, rate) => total + rate, 0)]));
  bench.report(row("density: CPU of the platform, per second", "ms", [ofPlatform]));
}

async function pauseAll(bench: Bench, platform: TestPlatform, sandboxes: readonly SandboxHandle[]): Promise<void> {
  const each: number[] = [];
  const totalMs = await timed(() =>
    eachAtOnce(pausedAtOnce, sandboxes, async (sandbox) => {
      each.push(await timed(() => sandbox.pause()));
    }),
  );
  bench.report(row(`density: pause of all, ${pausedAtOnce} at once, each`, "ms", each));
  bench.report(row("density: pause of all", "s", [totalMs / 1_000]));
  const vmms = await vmmsOf(platform.folder);
  if (vmms.length > 0) throw new Error(`all sandboxes are paused, and ${vmms.length} VMMs run`);
  const disk: number[] = [];
  for (const { id } of sandboxes) disk.push((await diskUsage(join(platform.folder, "sandboxes", id))).own / MiB);
  bench.report(row("density: disk of each paused one", "MiB", disk, { reach: [{ of: "p50", atMost: 12 }] }));
  bench.report(row("density: disk of all", "MiB", [disk.reduce((total, mib) => total + mib, 0)]));
}

async function resumeSome(bench: Bench, sandboxes: readonly SandboxHandle[], random: SeededRandom): Promise<void> {
  const chosen = new Set<SandboxHandle>();
  while (chosen.size < Math.min(resumedCount, sandboxes.length)) chosen.add(pick(sandboxes, random));
  const each: number[] = [];
  for (const sandbox of chosen) {
    each.push(
      await timed(async () => {
        mustStartBy("restore", await sandbox.resume());
        await firstOutput(sandbox);
      }),
    );
  }
  bench.report(row(`density: resume of ${chosen.size} random ones to first command's output`, "ms", each));
}

function pick<Item>(items: readonly Item[], random: SeededRandom): Item {
  return must(items[random.integer(items.length)], "one of them");
}
