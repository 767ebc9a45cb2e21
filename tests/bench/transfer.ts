import { randomBytes } from "node:crypto";

import { withMemoryImages, type Group } from "./bench.ts";
import { timed } from "./measure.ts";
import { row } from "./report.ts";

/** Payload of one transfer in `bytes`. */
const payloadBytes = 50_000_000;

/** Files to and from a sandbox. */
export const transferGroup: Group = {
  name: "transfer",
  run: async (bench) => {
    await withMemoryImages({}, async (platform) => {
      const sandbox = await platform.sandbox({ timeout_sec: 0 });
      const payload = randomBytes(payloadBytes);
      const up: number[] = [];
      const down: number[] = [];
      const megabytes = payloadBytes / 1e6;
      for (let left = bench.samples(5); left > 0; left -= 1) {
        up.push(megabytes / ((await timed(() => sandbox.files.write("/tmp/payload", payload))) / 1000));
        let received: Buffer | undefined;
        const downMs = await timed(async () => (received = await sandbox.files.readBytes("/tmp/payload")));
        if (received?.equals(payload) !== true) throw new Error("what was downloaded is not what was uploaded");
        down.push(megabytes / (downMs / 1000));
      }
      await sandbox.delete();
      bench.report(row("upload of 50 MB of random bytes", "MB/s", up));
      bench.report(row("download of 50 MB of random bytes", "MB/s", down));
    });
  },
};
