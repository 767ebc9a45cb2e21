import { chmod, mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { must, sleep } from "@roost/kit";

import { findVmm } from "../support/find-vmm.ts";
import { withPlatform, type Bench, type Group } from "./bench.ts";
import { imagesFolder } from "./images-folder.ts";
import { firstOutput, mustStartBy, rest, timed } from "./measure.ts";
import { pssMib } from "./processes.ts";
import { Profile } from "./profile.ts";
import { row } from "./report.ts";

/** Time after its first command in which a guest settles in `ms`: services end their start, heaps shrink. */
const settleMs = 10_000;

/** From create to the first command's output by booting, in `ms`: what starting from memory is compared with. Measured once per run. */
export function coldBoots(bench: Bench): Promise<readonly number[]> {
  return bench.once("cold boot", () => measure(bench));
}

export const coldBootGroup: Group = { name: "boot", run: async (bench) => void (await coldBoots(bench)) };

async function measure(bench: Bench): Promise<readonly number[]> {
  // A cache that has the images and no memory of theirs: nothing to start from
  const cacheDir = await mkdtemp(join(tmpdir(), "roost-bench-cache-"));
  try {
    await chmod(cacheDir, 0o711); // VMMs, which have uids of their own, open images in it
    await symlink(imagesFolder(), join(cacheDir, "images"));
    return await withPlatform({ ROOST_CACHE_DIR: cacheDir, ROOST_MEMORY_IMAGES: "false" }, async (platform) => {
      const profile = new Profile(platform, bench.flags.profile);
      const toOutput: number[] = [];
      const memory: number[] = [];
      for (let left = bench.samples(10); left > 0; left -= 1) {
        let id = "";
        const ms = await profile.sample((step) =>
          timed(async () => {
            const startMs = performance.now();
            const sandbox = await platform.sandbox({ timeout_sec: 0 });
            id = sandbox.id;
            step("create", performance.now() - startMs);
            await firstOutput(sandbox);
          }),
        );
        toOutput.push(ms);
        mustStartBy("boot", await platform.client.sandboxes.get(id));
        if (left === 1) {
          await sleep(settleMs);
          memory.push(await pssMib(must(await findVmm(platform.folder, id), "the VMM of a running sandbox")));
        }
        await platform.client.sandboxes.delete(id);
        await rest();
      }
      bench.report(row("cold boot: create to first command's output", "ms", toOutput), profile);
      bench.report(row("memory of an idle sandbox that booted (PSS of its VMM)", "MiB", memory));
      return toOutput;
    });
  } finally {
    await rm(cacheDir, { recursive: true, force: true });
  }
}
