import { sleep } from "@roost/kit";

import { withMemoryImages, type Group } from "./bench.ts";
import { firstOutput, mustStartBy } from "./measure.ts";
import { describeMemory } from "./memory-map.ts";
import { cpuMs, pssMib, vmmsOf } from "./processes.ts";
import { row } from "./report.ts";

/** How long idle CPU is measured in `ms`: /proc counts in 10 ms steps. */
const idleWindowMs = 20_000;
/** Time after its first command in which a guest settles in `ms`. */
const settleMs = 10_000;
/** Sandboxes at each look: from one to the next, memory grows by what one more costs. */
const counts = [1, 2, 4, 8];

/**
 * What one more sandbox of a template costs that others run of, too. The sum of PSS of all VMMs grows by exactly what is not shared; the first one
 * is left out, because it pays for all that is.
 */
export const idleGroup: Group = {
  name: "idle",
  run: async (bench) => {
    await withMemoryImages({}, async (platform) => {
      const increments: number[] = [];
      let first = 0;
      let previous = { count: 0, mib: 0 };
      for (const count of counts) {
        for (let made = previous.count; made < count; made += 1) {
          const answer = await platform.client.sandboxes.create({ timeout_sec: 0 });
          mustStartBy("restore", answer);
          await firstOutput(platform.client.sandbox(answer.id));
        }
        await sleep(settleMs);
        const vmms = await vmmsOf(platform.folder);
        if (vmms.length !== count) throw new Error(`${count} sandboxes run, and ${vmms.length} VMMs`);
        const mib = sum(await Promise.all(vmms.map(pssMib)));
        if (previous.count === 0) first = mib;
        else increments.push((mib - previous.mib) / (count - previous.count));
        previous = { count, mib };
      }
      const vmms = await vmmsOf(platform.folder);
      const before = await Promise.all(vmms.map(cpuMs));
      const startMs = performance.now();
      await sleep(idleWindowMs);
      const elapsedSec = (performance.now() - startMs) / 1000;
      const after = await Promise.all(vmms.map(cpuMs));
      bench.report(
        row("memory of one more idle sandbox of a template (PSS of its VMM)", "MiB", increments, {
          baseline: { name: "the first one", values: [first] },
          reach: [{ of: "p50", atMost: 45 }],
        }),
      );
      if (bench.flags.profile) process.stdout.write(await describeMemory(vmms));
      const used = after.map((total, index) => (total - (before[index] ?? 0)) / elapsedSec);
      bench.report(row("CPU of an idle sandbox, per second", "ms", used, { reach: [{ of: "p50", atMost: 10 }] }));
    });
  },
};

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
