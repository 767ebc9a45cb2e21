import { readdir } from "node:fs/promises";
import { join } from "node:path";

import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { SeededRandom } from "@roost/testing";
import { describe, expect, test } from "vitest";

import { runCrash, type CrashOrder } from "../testing/crash-run.ts";
import {
  crashOperations,
  crashSettings,
  crashTemplate,
  crashToken,
  fakeCrashHost,
  knownAfter,
  type CrashOperation,
} from "../testing/crash-scenarios.ts";
import { aSpec, FakeHost } from "../testing/fake-host.ts";

/**
 * Each operation on a sandbox, cut off by kill -9 at each of its steps: the next host agent finds the sandbox at its old or its new generation, whole, and
 * nothing else is left. With fake VMs, which die with the process; `crash.vm.test.ts` does the same with real ones, which live on.
 */

async function crash(operation: CrashOperation, killAt: number | null): Promise<string[]> {
  return runCrash({ driver: "fake", operation, killAt, alsoVmm: false }, lookAfterwards);
}

async function lookAfterwards({ folder, operation, sandboxId, children }: CrashOrder): Promise<void> {
  await using host = await FakeHost.start({ folder, settings: crashSettings(operation, "fake") });
  const { client } = host;
  const known = fakeCrashHost(host);
  const { sandboxes } = await client.listSandboxes({});
  const found = sandboxes.find((sandbox) => sandbox.spec?.sandboxId === sandboxId);
  if (operation !== "delete") expect(found?.state, "a sandbox that lost its VM is back at a generation").toBe(SandboxState.PAUSED);
  if (found !== undefined) {
    const { generations } = await client.listGenerations({ sandboxId });
    expect(generations.filter((generation) => generation.isCurrent)).toHaveLength(1);
    await client.resumeSandbox({ sandboxId });
    expect(knownAfter[operation]).toContain((await known.ask(sandboxId)).memory);
    // And it goes on from there
    await client.checkpointSandbox({ sandboxId });
    await client.pauseSandbox({ sandboxId });
    await client.resumeSandbox({ sandboxId });
    expect(knownAfter[operation]).toContain((await known.ask(sandboxId)).memory);
  }
  for (const child of children) {
    const state = sandboxes.find((sandbox) => sandbox.spec?.sandboxId === child)?.state;
    expect([undefined, SandboxState.FAILED, SandboxState.PAUSED]).toContain(state);
    if (state !== SandboxState.PAUSED) continue;
    await client.resumeSandbox({ sandboxId: child });
    expect((await known.ask(child)).memory).toBe(3);
  }
  const { templates } = await client.listTemplates({});
  if (templates.some(({ name }) => name === crashTemplate)) {
    const spec = aSpec({ template: crashTemplate, vcpus: 0, memoryMib: 0, accessToken: crashToken("child") });
    expect((await client.createSandbox({ spec })).sandbox?.startPath).toBe("restore");
    expect((await known.ask(spec.sandboxId)).memory).toBe(3);
    await client.destroySandbox({ sandboxId: spec.sandboxId });
  }
  for (const { spec } of sandboxes) await client.destroySandbox({ sandboxId: spec?.sandboxId ?? "" });
  if (templates.some(({ name }) => name === crashTemplate)) await client.deleteTemplate({ name: crashTemplate });
  expect(await host.leftovers()).toEqual([]);
  for (const place of ["templates", "pool", "builds"]) {
    expect(await readdir(join(host.folder, "state", place)).catch(() => []), `left in ${place}`).toEqual([]);
  }
}

/** Steps tried of each operation; the soak tries all. */
const stepsTried = process.env["CRASH_STEPS"] === "all" ? Number.POSITIVE_INFINITY : 1;

describe.each(crashOperations)("%s", (operation) => {
  test("is whole after kill -9 at any step", async () => {
    const random = new SeededRandom();
    const steps = await crash(operation, null);
    expect(steps.length, "the operation has steps").toBeGreaterThan(0);
    // Each step by name, where it comes first and where it comes last: others of the name are of the same kind
    const indices = [...new Set(steps.flatMap((step) => [steps.indexOf(step), steps.lastIndexOf(step)]))];
    console.log(
      `crash ${operation}: SEED=${random.seed}, ${Math.min(stepsTried, indices.length)} of ${indices.length} steps: ${steps.join(" → ")}`,
    );
    while (indices.length > stepsTried) indices.splice(random.integer(indices.length), 1);
    for (const index of indices) {
      await crash(operation, index).catch((error: unknown) => {
        throw new Error(`killed at step ${index} (${steps[index]}) of ${steps.join(" → ")}`, { cause: error });
      });
    }
  }, 600_000);
});
