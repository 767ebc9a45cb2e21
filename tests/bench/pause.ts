import { randomBytes } from "node:crypto";
import { open, rm } from "node:fs/promises";
import { join } from "node:path";

import type { TestPlatform } from "../support/test-platform.ts";
import { withMemoryImages, type Bench, type Group } from "./bench.ts";
import { capturesOf } from "./captures.ts";
import { dirty } from "./guest-load.ts";
import { firstOutput, rest, timed } from "./measure.ts";
import { Profile } from "./profile.ts";
import { row } from "./report.ts";

/** What a pause may take for each changed MiB of memory in `ms`; the reach is about the rest. */
const msPerDirtyMib = 1.5;

/** Pause of a 512 MiB sandbox until all of it is durable, by how much of its memory was changed since it started. */
export const pauseGroup: Group = {
  name: "pause",
  run: async (bench) => {
    await withMemoryImages({}, async (platform) => {
      for (const mib of [0, 64, 192]) await measure(bench, platform, mib);
    });
  },
};

async function measure(bench: Bench, platform: TestPlatform, mib: number): Promise<void> {
  const profile = new Profile(platform, bench.flags.profile);
  const paused: number[] = [];
  const beyond: number[] = [];
  const changed: number[] = [];
  const ratios: number[] = [];
  const floor: number[] = [];
  for (let left = bench.samples(15); left > 0; left -= 1) {
    const sandbox = await platform.sandbox({ timeout_sec: 0 });
    await firstOutput(sandbox);
    await dirty(sandbox, mib);
    await rest();
    const ms = await profile.sample(() => timed(() => sandbox.pause()));
    const [facts] = await capturesOf(platform.client, sandbox.id, "sandbox.paused", 1);
    if (facts === undefined || facts.changedMib < mib) throw new Error(`${mib} MiB were changed, and the pause saw ${facts?.changedMib}`);
    paused.push(ms);
    changed.push(facts.changedMib);
    ratios.push(facts.writtenRatio);
    beyond.push(ms - msPerDirtyMib * facts.changedMib);
    await sandbox.delete();
    await rest(); // with what a large diff brings about in the background
    floor.push(await writeDurably(platform.folder, facts.writtenBytes));
  }
  const load = mib === 0 ? "after one command" : `with ${mib} MiB of random bytes`;
  const baseline = { name: "write and fsync of as many bytes", values: floor };
  bench.report(row(`pause to durable, ${load}`, "ms", paused, { baseline }), profile);
  bench.report(row(`  less ${msPerDirtyMib} ms per changed MiB`, "ms", beyond, { reach: [{ of: "p50", atMost: 60 }] }));
  bench.report(row("  memory that was changed", "MiB", changed));
  bench.report(row("  bytes written per changed byte", "×", ratios, { reach: [{ of: "p50", atMost: 1.1 }] }));
}

/** What the disk alone takes for so many bytes, in `ms`. */
async function writeDurably(folder: string, bytes: number): Promise<number> {
  const path = join(folder, "bench-floor");
  const content = randomBytes(bytes);
  const ms = await timed(async () => {
    const file = await open(path, "w");
    await file.writeFile(content);
    await file.sync();
    await file.close();
  });
  await rm(path);
  return ms;
}
