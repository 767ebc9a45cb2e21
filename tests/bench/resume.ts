import { withMemoryImages, type Group } from "./bench.ts";
import { coldBoots } from "./cold-boot.ts";
import { firstOutput, mustStartBy, rest } from "./measure.ts";
import { Profile } from "./profile.ts";
import { row } from "./report.ts";

/** A sandbox that is paused and resumed over and over. */
export const resumeGroup: Group = {
  name: "resume",
  run: async (bench) => {
    const baseline = { name: "cold boot", values: await coldBoots(bench) };
    await withMemoryImages({}, async (platform) => {
      const profile = new Profile(platform, bench.flags.profile);
      const toOutput: number[] = [];
      const resumed: number[] = [];
      const sandbox = await platform.sandbox({ timeout_sec: 0 });
      for (let left = bench.samples(30); left > 0; left -= 1) {
        await firstOutput(sandbox);
        await sandbox.pause();
        await rest();
        toOutput.push(
          await profile.sample(async (step) => {
            const startMs = performance.now();
            const answer = await sandbox.resume();
            const answeredMs = performance.now();
            await firstOutput(sandbox);
            const outputMs = performance.now();
            step("resume", answeredMs - startMs);
            step("first command", outputMs - answeredMs);
            resumed.push(answeredMs - startMs);
            mustStartBy("restore", answer);
            return outputMs - startMs;
          }),
        );
      }
      await sandbox.delete();
      bench.report(row("resume to first command's output", "ms", toOutput, { baseline, reach: [{ of: "p50", atMost: 350 }] }), profile);
      bench.report(row("  of which until resume answers", "ms", resumed));
    });
  },
};
