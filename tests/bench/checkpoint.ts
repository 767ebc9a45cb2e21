import type { TestPlatform } from "../support/test-platform.ts";
import { withMemoryImages, type Bench, type Group } from "./bench.ts";
import { capturesOf } from "./captures.ts";
import { dirty } from "./guest-load.ts";
import { firstOutput, rest, timed } from "./measure.ts";
import { Profile } from "./profile.ts";
import { median, row } from "./report.ts";

/** Checkpoints in a row, also with `--quick`: whether the twentieth costs what the first did is the question. */
const inARow = 20;
/** What each changed MiB may add to the standstill in `ms`; the reach is about the rest. */
export const stoppedMsPerDirtyMib = 1;
/** How much longer than the first five the last five may stand still: two in a row differ by as much. */
const flatRatioMax = 1.25;

/** For how long the guest stands still while a live checkpoint is made. */
export const checkpointGroup: Group = {
  name: "checkpoint",
  run: async (bench) => {
    await withMemoryImages({}, async (platform) => {
      for (const mib of [0, 64]) await measure(bench, platform, mib);
    });
  },
};

async function measure(bench: Bench, platform: TestPlatform, mib: number): Promise<void> {
  const profile = new Profile(platform, bench.flags.profile);
  const sandbox = await platform.sandbox({ timeout_sec: 0 });
  await dirty(sandbox, mib);
  const answered: number[] = [];
  for (let count = 0; count < inARow; count += 1) {
    await firstOutput(sandbox);
    await rest();
    answered.push(await profile.sample(() => timed(() => sandbox.checkpoint())));
  }
  const facts = await capturesOf(platform.client, sandbox.id, "sandbox.checkpointed", inARow);
  await sandbox.delete();
  if (facts.some(({ changedMib }) => changedMib < mib)) throw new Error(`${mib} MiB were changed, and a checkpoint saw less`);
  const stopped = facts.map(({ guestStoppedMs }) => guestStoppedMs);
  const beyond = facts.map(({ guestStoppedMs, changedMib }) => guestStoppedMs - stoppedMsPerDirtyMib * changedMib);
  const load = mib === 0 ? "one command between each" : `with ${mib} MiB of random bytes`;
  bench.report(row(`guest stopped by a checkpoint, ${load}`, "ms", stopped));
  bench.report(row(`  less ${stoppedMsPerDirtyMib} ms per changed MiB`, "ms", beyond, { reach: [{ of: "p50", atMost: 30 }] }));
  bench.report(
    row(
      `  memory that was changed`,
      "MiB",
      facts.map(({ changedMib }) => changedMib),
    ),
  );
  const flat = median(stopped.slice(-5)) / median(stopped.slice(0, 5));
  bench.report(
    row(`  last five of ${inARow} in a row against the first five`, "×", [flat], { reach: [{ of: "p50", atMost: flatRatioMax }] }),
  );
  bench.report(row("  checkpoint: request to durable", "ms", answered), profile);
}
