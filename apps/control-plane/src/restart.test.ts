import { silentLogger } from "@roost/kit";
import { expect, test } from "vitest";

import { createControlPlane } from "./control-plane.ts";
import { idleConnectionMs } from "./guest/tunnel-agent.ts";
import { controlPlaneOptions } from "./options.ts";
import { World } from "./testing/world.ts";

test("a new control plane on the same records goes on: keys, sandboxes, and commands that are activity", { timeout: 60_000 }, async () => {
  await using world = await World.start();
  const { id } = await world.createSandbox({ metadata: { keep: "me" } });
  const started = await world.exec(id, { cmd: "sleep", args: ["60"], background: true, tag: "job" });
  expect(started.status).toBe(202);
  await world.controlPlane.close();
  await expect.poll(() => world.host.openTunnels.size).toBe(0);

  const options = { ...controlPlaneOptions.read({}), port: 0, drainTimeoutSec: 0 };
  const next = await createControlPlane(options, { hosts: [world.host], database: world.database, log: silentLogger });
  try {
    const { url } = await next.listen();
    const answer = await fetch(`${url}/v1/sandboxes/${id}`, { headers: { "x-api-key": world.key } });
    expect(await answer.json()).toMatchObject({ id, state: "running", metadata: { keep: "me" } });
    await expect.poll(() => world.host.openTunnels.size, { timeout: idleConnectionMs + 10_000 }).toBe(1);
    world.guest.killAll();
    await expect.poll(() => world.host.openTunnels.size, { timeout: idleConnectionMs + 10_000 }).toBe(0);
  } finally {
    await next.close();
  }
});
