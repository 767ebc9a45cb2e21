import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { instanceTag, listOwnedResources } from "@roost/testing";
import { expect, test } from "vitest";

import { InstanceLock } from "./instance-lock.ts";
import { namespaceName, openInstance, vethName } from "./instance.ts";
import { labNetwork } from "./testing/egress-lab.ts";

test("the leak check finds what an installation holds, and nothing when it is gone", async () => {
  const folder = await mkdtemp(join(tmpdir(), "roost-instance-"));
  const instance = await openInstance(folder);
  expect(instanceTag(instance.stateDir)).toBe(instance.tag);
  expect(await listOwnedResources(folder)).toEqual([]);

  const lock = await InstanceLock.take(instance);
  const network = labNetwork(instance, { slotCount: 2 });
  await network.start([]);
  const slot = await network.acquire();
  const found = (await listOwnedResources(folder)).join("\n");
  expect(found).toContain(`namespace ${namespaceName(instance, slot.index)}`);
  expect(found).toContain(`link ${vethName(instance, slot.index)}`);
  expect(found).toContain(`table table inet roost_${instance.tag}`);
  expect(found).toContain("route unreachable 198.");
  expect(found).toMatch(/mount .*\/run\/netns\/roost-/);
  expect(found).toContain(`@roost-host-agent-${instance.tag}`);

  await network.close({ remove: true });
  await lock.release();
  expect(await listOwnedResources(folder)).toEqual([]);
  await rm(folder, { recursive: true });
  expect(await listOwnedResources(folder)).toEqual([]);
});
