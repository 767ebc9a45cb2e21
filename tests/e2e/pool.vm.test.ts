import { poll } from "@roost/kit";
import { expect, test } from "vitest";

import { usePlatform } from "../support/platform.ts";

const platform = usePlatform({ ROOST_POOL_SIZES: "base=1" });

test("a create is served by a VM that waited, which is nobody else's and then as any other", async () => {
  await platform().untilMemoryImage();
  const served = await poll({ what: "a create from the warm pool", timeoutMs: 60_000, intervalMs: 1_000 }, async () => {
    const sandbox = await platform().sandbox({ timeout_sec: 0, envs: { WHO: "me" } });
    if ((await sandbox.get()).start_path === "pool") return sandbox;
    await sandbox.delete();
    return undefined;
  });
  expect((await served.exec("sh", { args: ["-c", "echo $WHO; hostname"] })).stdout).toBe(`me\n${served.id}\n`);
  await served.files.write("/dev/shm/memory", "in memory");
  await served.pause();
  await served.resume();
  expect(await served.files.readText("/dev/shm/memory")).toBe("in memory");
  await served.delete();
});
