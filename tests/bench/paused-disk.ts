import { join } from "node:path";

import { MiB } from "@roost/kit";

import { withMemoryImages, type Group } from "./bench.ts";
import { diskUsage } from "./disk-usage.ts";
import { firstOutput, rest } from "./measure.ts";
import { row } from "./report.ts";

/** Memory of the sandboxes in `MiB`: what a plain dump of it would take. */
const guestMib = 512;

/** What a paused sandbox that did little keeps on disk. */
export const pausedDiskGroup: Group = {
  name: "paused-disk",
  run: async (bench) => {
    await withMemoryImages({}, async (platform) => {
      const own: number[] = [];
      const shared: number[] = [];
      for (let left = bench.samples(5); left > 0; left -= 1) {
        const sandbox = await platform.sandbox({ timeout_sec: 0, memory_mb: guestMib });
        await firstOutput(sandbox);
        await sandbox.files.write("/home/user/note", "little");
        await sandbox.pause();
        await rest();
        const usage = await diskUsage(join(platform.folder, "sandboxes", sandbox.id));
        own.push(usage.own / MiB);
        shared.push(usage.shared / MiB);
        await sandbox.delete();
      }
      const baseline = { name: "its memory", values: [guestMib] };
      bench.report(row("disk of a paused sandbox that did little", "MiB", own, { baseline, reach: [{ of: "p50", atMost: 12 }] }));
      bench.report(row("  and files that it shares with others", "MiB", shared));
    });
  },
};
