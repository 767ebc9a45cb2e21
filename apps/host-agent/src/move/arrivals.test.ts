import { randomUUID } from "node:crypto";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { PlatformError } from "@roost/contract";
import { minute, must, silentLogger } from "@roost/kit";
import { expect, test } from "vitest";

import type { SandboxContext } from "../sandbox/context.ts";
import type { SandboxManager } from "../sandbox/sandbox-manager.ts";
import { egressPolicySchema } from "../sandbox/sandbox-record.ts";
import { aSpec, FakeHost } from "../testing/fake-host.ts";
import { Arrivals, type AskedArrival } from "./arrivals.ts";
import type { MovedImages } from "./moved-images.ts";

/** What a control plane would ask of a paused sandbox. */
async function asked(host: FakeHost): Promise<AskedArrival> {
  const spec = aSpec();
  const { sandboxId } = spec;
  await host.client.createSandbox({ spec });
  await host.client.pauseSandbox({ sandboxId });
  const moveId = randomUUID();
  const { parcel } = await host.client.beginDeparture({ sandboxId, moveId });
  const { vcpus, memoryMib, diskSizeMib, accessToken } = spec;
  return {
    moveId,
    sandboxId,
    parcel: must(parcel, "a parcel"),
    vcpus,
    memoryMib,
    diskSizeMib,
    accessToken,
    network: egressPolicySchema.parse({ allowOut: [], denyOut: [] }),
  };
}

test("what nothing came of for long is removed; there are only so many at once; a full disk takes none", async () => {
  await using host = await FakeHost.start();
  const folder = await mkdtemp(join(tmpdir(), "roost-arrivals-"));
  let isFull = false;
  const disks = {
    check: async () => {
      if (isFull) throw new PlatformError("host_disk_full", "no room");
    },
  };
  const context = { driver: host.driver, accelerator: "tcg", disks, log: silentLogger } as unknown as SandboxContext;
  const manager = { has: () => false, refuseArrival: () => undefined } as unknown as SandboxManager;
  const images = { find: async () => "/dev/null" } as unknown as MovedImages;
  const arrivals = new Arrivals({ folder, manager, context, images, findBase: async () => undefined });
  try {
    await arrivals.recover();
    const one = await asked(host);
    for (let count = 0; count < 8; count += 1) await arrivals.begin({ ...one, moveId: randomUUID() });
    await expect(arrivals.begin(one)).rejects.toMatchObject({ code: "capacity_exhausted" });
    await arrivals.forgetIdle(Date.now() + 9 * minute);
    expect(await readdir(folder)).toHaveLength(8);
    await arrivals.forgetIdle(Date.now() + 11 * minute);
    expect(await readdir(folder)).toEqual([]);

    const begun = must(await arrivals.begin(one), "it is not here yet");
    isFull = true;
    const part = { attemptId: begun.attemptId, file: must(begun.needed[0], "a file"), offset: 0, data: Buffer.from("x") };
    await expect(arrivals.write(one.moveId, part)).rejects.toMatchObject({ code: "host_disk_full" });
    await expect(arrivals.begin({ ...one, moveId: randomUUID() })).rejects.toMatchObject({ code: "host_disk_full" });
    expect(await readdir(folder)).toHaveLength(1);
  } finally {
    arrivals.close();
    await rm(folder, { recursive: true, force: true });
  }
});
