import { open, readdir, truncate } from "node:fs/promises";
import { join } from "node:path";

import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { must } from "@roost/kit";
import { expect, test } from "vitest";

import { failureOf } from "../testing/failure-of.ts";
import { aSpec, FakeHost } from "../testing/fake-host.ts";

/** Files of a paused sandbox, by what they are; each is found below the sandbox's folder. */
const kinds = {
  manifest: "manifest.json",
  diff: "memory.diff",
  "device state": "device.state",
  "base file": ".memory",
  "disk layer": ".qcow2",
} as const;

async function filesOf(host: FakeHost, sandboxId: string, ending: string): Promise<string> {
  const folder = join(host.folder, "state", "sandboxes", sandboxId);
  const names = await readdir(folder, { recursive: true });
  return join(
    folder,
    must(
      names.find((name) => name.endsWith(ending)),
      `a file that ends with ${ending}`,
    ),
  );
}

const damages = {
  truncated: async (path: string) => truncate(path, 3),
  "bit-flipped": async (path: string) => {
    await using file = await open(path, "r+");
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, 2);
    byte.writeUInt8(byte.readUInt8(0) ^ 0x10);
    await file.write(byte, 0, 1, 2);
  },
} as const;

const cases = Object.keys(kinds).flatMap((kind) => Object.keys(damages).map((damage) => [kind, damage] as const));

test.each(cases)("a %s that was %s is told, and never restored", async (kind, damage) => {
  await using host = await FakeHost.start();
  const { sandboxId } = await paused(host);
  await damages[damage as keyof typeof damages](await filesOf(host, sandboxId, kinds[kind as keyof typeof kinds]));
  expect(await failureOf(host.client.resumeSandbox({ sandboxId }))).toMatchObject({ code: "image_damaged" });
  expect((await host.client.getSandbox({ sandboxId })).sandbox?.state).toBe(SandboxState.PAUSED);
  expect(host.driver.running).toEqual([]);
  // Also by a host agent that did not see it happen
  await host.endAgent();
  await host.startAgent();
  expect(await failureOf(host.client.resumeSandbox({ sandboxId }))).toMatchObject({ code: "image_damaged" });
  expect((await host.client.getSandbox({ sandboxId })).sandbox?.state).toBe(SandboxState.PAUSED);
  await host.client.destroySandbox({ sandboxId });
  expect(await host.leftovers()).toEqual([]);
});

test("a damaged generation takes no other with it: an older one can be gone back to", async () => {
  await using host = await FakeHost.start();
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  const { sandboxId } = spec;
  must(host.guests.get(sandboxId), "its guest").knowledge = { step: 1 };
  await host.client.checkpointSandbox({ sandboxId });
  must(host.guests.get(sandboxId), "its guest").knowledge = { step: 2 };
  await host.client.pauseSandbox({ sandboxId });
  await truncate(join(host.folder, "state", "sandboxes", sandboxId, "generations", "2.1", "memory.diff"), 100);
  expect(await failureOf(host.client.resumeSandbox({ sandboxId }))).toMatchObject({ code: "image_damaged" });
  await host.client.rollbackSandbox({ sandboxId, generation: 1 });
  expect(host.guests.get(sandboxId)?.knowledge).toEqual({ step: 1 });
});

async function paused(host: FakeHost): Promise<{ readonly sandboxId: string }> {
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  must(host.guests.get(spec.sandboxId), "its guest").knowledge = { answer: 42 };
  await host.client.pauseSandbox({ sandboxId: spec.sandboxId });
  return spec;
}
