import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";

import { createClient, createRouterTransport } from "@connectrpc/connect";
import { newSandboxId } from "@roost/contract";
import { HostAgentService, SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { silentLogger } from "@roost/kit";
import { listOwnedResources, SeededRandom } from "@roost/testing";
import { describe, expect, test } from "vitest";

import { createHostAgent } from "./host-agent.ts";
import { hostAgentOptions, imagesFolder } from "./options.ts";
import { runCrash, type CrashOrder } from "./testing/crash-run.ts";
import {
  crashOperations,
  crashSettings,
  crashTemplate,
  crashToken,
  knownAfter,
  realCrashHost,
  type CrashHost,
  type CrashOperation,
} from "./testing/crash-scenarios.ts";
import { aSpec } from "./testing/fake-host.ts";

/**
 * The crash matrix with real VMs: an operation is cut off by kill -9 of the host agent, or of host agent and VMM, at any of its steps. A VMM that lives
 * on is adopted, and its sandbox runs on as if nothing had been; one that does not is back at its old or its new generation.
 */

const environment = { ...process.env };
const options = hostAgentOptions.read(environment, { dir: "/nonexistent" });
const hasImages = existsSync(join(imagesFolder(options), "images.json"));
if (!hasImages) console.warn(`skipped: no images in ${imagesFolder(options)} (npm run images)`);

const isWhole = process.env["CRASH_STEPS"] === "all";
/** Steps tried of each operation with each kind of kill; the soak tries all. */
const stepsTried = isWhole ? Number.POSITIVE_INFINITY : 1;
/** Operations tried, others each time: one costs 16 s, and with fake VMs all of them are tried always. */
const operationsTried = isWhole ? Number.POSITIVE_INFINITY : 3;
const operations = someOf(crashOperations.filter((operation) => operation !== "compaction" && operation !== "rebase")); // of a paused sandbox: no VM is there

function someOf(all: readonly CrashOperation[]): readonly CrashOperation[] {
  const some = [...all];
  const random = new SeededRandom();
  while (some.length > operationsTried) some.splice(random.integer(some.length), 1);
  return some;
}

async function crash(operation: CrashOperation, killAt: number | null, alsoVmm: boolean): Promise<string[]> {
  return runCrash({ driver: "qemu", operation, killAt, alsoVmm }, lookAfterwards);
}

async function lookAfterwards(order: CrashOrder): Promise<void> {
  const { operation, sandboxId, folder } = order;
  const settings = hostAgentOptions.read(environment, { dir: folder, ...crashSettings(operation, "qemu") });
  const agent = await createHostAgent(settings, { log: silentLogger });
  await agent.start();
  const client = createClient(
    HostAgentService,
    createRouterTransport(({ service }) => service(HostAgentService, agent.service)),
  );
  const host = realCrashHost(agent, client);
  try {
    const { sandboxes } = await client.listSandboxes({});
    const found = sandboxes.find((sandbox) => sandbox.spec?.sandboxId === sandboxId);
    if (operation !== "delete") expect([SandboxState.PAUSED, SandboxState.RUNNING]).toContain(found?.state);
    if (found !== undefined) await goOn(host, order, found.state);
    for (const { spec, state } of sandboxes) {
      const id = spec?.sandboxId ?? "";
      if (id === sandboxId) continue;
      expect([SandboxState.FAILED, SandboxState.PAUSED, SandboxState.RUNNING]).toContain(state);
      if (state === SandboxState.FAILED) continue;
      await client.resumeSandbox({ sandboxId: id });
      expect(await host.ask(id)).toEqual({ memory: 3, disk: 3 });
    }
    const { templates } = await client.listTemplates({});
    if (templates.some(({ name }) => name === crashTemplate)) {
      const id = newSandboxId();
      await client.createSandbox({
        spec: aSpec({ sandboxId: id, template: crashTemplate, vcpus: 0, memoryMib: 0, accessToken: crashToken(id) }),
      });
      expect(await host.ask(id)).toEqual({ memory: 3, disk: 3 });
      await client.destroySandbox({ sandboxId: id });
    }
    for (const { spec } of sandboxes) await client.destroySandbox({ sandboxId: spec?.sandboxId ?? "" });
    if (templates.some(({ name }) => name === crashTemplate)) await client.deleteTemplate({ name: crashTemplate });
  } finally {
    await agent.close({ stopSandboxes: true });
  }
  expect(await listOwnedResources(folder)).toEqual([]);
  for (const place of ["templates", "pool", "builds"])
    expect(await readdir(join(folder, place)).catch(() => []), `left in ${place}`).toEqual([]);
}

/** Memory and disk are of one instant, the right one; and it can be saved and resumed from there. */
async function goOn(host: CrashHost, { operation, sandboxId, alsoVmm }: CrashOrder, state: SandboxState): Promise<void> {
  // A VM that lived on lost nothing: what was cut off is as if it had not been asked for, or as if it had been answered
  const lived = state === SandboxState.RUNNING;
  const expected = lived ? (operation === "rollback" ? [1, 3] : [3]) : knownAfter[operation];
  if (alsoVmm && operation !== "delete") expect(state).toBe(SandboxState.PAUSED);
  for (let round = 0; round < 2; round += 1) {
    await host.client.resumeSandbox({ sandboxId });
    const { memory, disk } = await host.ask(sandboxId);
    expect(expected).toContain(memory);
    expect(disk).toBe(memory);
    if (round === 0) await host.client.pauseSandbox({ sandboxId });
  }
}

describe.skipIf(!hasImages).each(operations)("%s of a real VM", (operation) => {
  test("is whole after kill -9 at any step", async () => {
    const random = new SeededRandom();
    const steps = await crash(operation, null, false);
    expect(steps.length, "the operation has steps").toBeGreaterThan(0);
    console.log(`crash ${operation}: SEED=${random.seed}, ${steps.length} steps: ${steps.join(" → ")}`);
    for (const alsoVmm of [false, true]) {
      const indices = steps.map((_, index) => index);
      while (indices.length > stepsTried) indices.splice(random.integer(indices.length), 1);
      for (const index of indices) {
        await crash(operation, index, alsoVmm).catch((error: unknown) => {
          throw new Error(`killed ${alsoVmm ? "with its VMM " : ""}at step ${index} (${steps[index]}) of ${steps.join(" → ")}`, {
            cause: error,
          });
        });
      }
    }
  }, 3_600_000);
});
