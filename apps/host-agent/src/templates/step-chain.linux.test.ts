import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { MiB, must, run } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { createLayer, freezeLayer } from "../disk/layers.ts";
import { mergeLayers } from "../disk/merge-layers.ts";
import type { Disks } from "../sandbox/disks.ts";
import { aSpec, FakeHost } from "../testing/fake-host.ts";

// Needs root, qemu-img, qemu-io and qemu-storage-daemon. The VMs are fake, their disks are not.

const disks: Disks = { check: async () => undefined, createLayer, freezeLayer, mergeLayers, freeBytes: async () => 2 ** 40 };
const stepName = (index: number) => `step-${String(index).padStart(40, "0")}`;
const stepCount = 24;

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-chain-"));
  await writeFile(join(folder, "base.raw"), Buffer.alloc(MiB, 0xee));
});
afterEach(async () => rm(folder, { recursive: true, force: true }));

/** The disk of these layers, oldest first, for QEMU's tools. */
function chain(layers: readonly string[], writable: boolean): string {
  let node: Record<string, unknown> = { driver: "raw", "read-only": true, file: { driver: "file", filename: join(folder, "base.raw") } };
  layers.forEach((filename, index) => {
    const readOnly = !writable || index < layers.length - 1;
    node = { driver: "qcow2", "read-only": readOnly, file: { driver: "file", filename, "read-only": readOnly }, backing: node };
  });
  return `json:${JSON.stringify(node)}`;
}

test("a long chain of steps, each in a sandbox of the one before, keeps what each of them wrote", async () => {
  await using host = await FakeHost.start({ deps: { disks }, settings: { layersMax: 4 } });
  const layersOf = (sandboxId: string) => {
    const { root } = must(host.driver.specOf(sandboxId)?.disks, "its disks");
    return host.driver.layersOf(sandboxId).map((layer) => join(root.folder, layer));
  };
  /** Rejects when the disk has something else there than the step of this number wrote. */
  const readBack = async (layers: readonly string[], index: number) =>
    run(["/usr/bin/qemu-io", "-r", "-c", `read -P ${index + 1} ${index * 128}k 64k`, chain(layers, false)]);
  let template = "base";
  let longest = 0;
  for (let index = 0; index < stepCount; index += 1) {
    const spec = aSpec({ template });
    await host.client.createSandbox({ spec });
    const layers = layersOf(spec.sandboxId);
    longest = Math.max(longest, layers.length);
    await run(["/usr/bin/qemu-io", "-c", `write -P ${index + 1} ${index * 128}k 64k`, "-c", "flush", chain(layers, true)]);
    template = stepName(index);
    await host.client.createTemplate({ sandboxId: spec.sandboxId, name: template, kind: "step", memory: false });
    await host.client.destroySandbox({ sandboxId: spec.sandboxId });
  }
  expect(longest).toBeGreaterThan(4);
  expect(longest).toBeLessThan(12);
  // Every one of them can be begun from, not only the last
  for (const last of [3, 9, stepCount - 1]) {
    const spec = aSpec({ template: stepName(last) });
    await host.client.createSandbox({ spec });
    for (let index = 0; index <= last; index += 1) await readBack(layersOf(spec.sandboxId), index);
    await expect(readBack(layersOf(spec.sandboxId), last + 1), "what a later step wrote").rejects.toThrow("exited with 1");
  }
});
