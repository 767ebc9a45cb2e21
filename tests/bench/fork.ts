import { withMemoryImages, type Group } from "./bench.ts";
import { capturesOf } from "./captures.ts";
import { stoppedMsPerDirtyMib } from "./checkpoint.ts";
import { coldBoots } from "./cold-boot.ts";
import { firstOutput, rest } from "./measure.ts";
import { Profile } from "./profile.ts";
import { row } from "./report.ts";

const childCount = 4;

/** One running sandbox into four, until each of them has run a command. */
export const forkGroup: Group = {
  name: "fork",
  run: async (bench) => {
    const baseline = { name: "one cold boot", values: await coldBoots(bench) };
    await withMemoryImages({}, async (platform) => {
      const profile = new Profile(platform, bench.flags.profile);
      const parent = await platform.sandbox({ timeout_sec: 0 });
      const allReady: number[] = [];
      for (let left = bench.samples(10); left > 0; left -= 1) {
        await firstOutput(parent);
        await rest();
        const children: string[] = [];
        allReady.push(
          await profile.sample(async (step) => {
            const startMs = performance.now();
            const results = await parent.fork(childCount);
            const answeredMs = performance.now();
            for (const result of results) {
              if ("error" in result) throw new Error(`a child did not start: ${result.error.code}: ${result.error.message}`);
              children.push(result.sandbox.id);
            }
            await Promise.all(children.map((id) => firstOutput(platform.client.sandbox(id))));
            step("fork", answeredMs - startMs);
            step("first commands", performance.now() - answeredMs);
            return performance.now() - startMs;
          }),
        );
        for (const id of children) await platform.client.sandboxes.delete(id);
      }
      const facts = await capturesOf(platform.client, parent.id, "sandbox.forked", allReady.length);
      await parent.delete();
      bench.report(
        row(`fork into ${childCount} until all have run a command`, "ms", allReady, { baseline, reach: [{ of: "p50", atMost: 1_500 }] }),
        profile,
      );
      const beyond = facts.map(({ guestStoppedMs, changedMib }) => guestStoppedMs - stoppedMsPerDirtyMib * changedMib);
      bench.report(
        row(
          "  guest stopped by the fork",
          "ms",
          facts.map(({ guestStoppedMs }) => guestStoppedMs),
        ),
      );
      bench.report(row(`  less ${stoppedMsPerDirtyMib} ms per changed MiB`, "ms", beyond, { reach: [{ of: "p50", atMost: 30 }] }));
    });
  },
};
