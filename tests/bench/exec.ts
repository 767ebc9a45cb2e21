import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { withMemoryImages, type Group } from "./bench.ts";
import { rest, timed } from "./measure.ts";
import { Profile } from "./profile.ts";
import { row } from "./report.ts";

/** Commands in a sandbox that has run some before. */
export const execGroup: Group = {
  name: "exec",
  run: async (bench) => {
    const onHost = promisify(execFile);
    await withMemoryImages({}, async (platform) => {
      const profile = new Profile(platform, bench.flags.profile);
      const sandbox = await platform.sandbox({ timeout_sec: 0 });
      for (let count = 20; count > 0; count -= 1) await sandbox.exec("true");
      await rest();
      const warm: number[] = [];
      const host: number[] = [];
      for (let left = bench.samples(200); left > 0; left -= 1) {
        warm.push(await profile.sample(() => timed(() => sandbox.exec("true"))));
        host.push(await timed(() => onHost("true")));
      }
      await sandbox.delete();
      const reach = [
        { of: "p50", atMost: 50 },
        { of: "p99", atMost: 150 },
      ] as const;
      bench.report(row("exec of true, warm", "ms", warm, { baseline: { name: "the same on the host", values: host }, reach }), profile);
    });
  },
};
