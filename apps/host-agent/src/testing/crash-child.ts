import { writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";

import { createClient, createRouterTransport } from "@connectrpc/connect";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { silentLogger, sleep } from "@roost/kit";

import { createHostAgent } from "../host-agent.ts";
import { hostAgentOptions } from "../options.ts";
import type { CrashOrder } from "./crash-run.ts";
import { crashSettings, fakeCrashHost, performCrash, prepareCrash, realCrashHost, type CrashHost } from "./crash-scenarios.ts";
import { FakeHost } from "./fake-host.ts";

// A host agent that is killed at one step of an operation: `crash-child.ts '{…}'`. Without `killAt` it does all of the operation and
// writes the steps it came through to `stepsFile`.
const order = JSON.parse(process.argv[2] ?? "{}") as CrashOrder;

/** Background work counts as done when no step came for so long, in `ms`. */
const quietMs = 700;
const steps: string[] = [];
let isArmed = false;
let lastStepMs = 0;
let vmmPid: number | undefined;

function onStep(step: string): void {
  if (!isArmed) return;
  lastStepMs = performance.now();
  if (steps.length === order.killAt) {
    if (order.alsoVmm) killVmm();
    process.kill(process.pid, "SIGKILL");
  }
  steps.push(step);
}

function killVmm(): void {
  try {
    if (vmmPid !== undefined) process.kill(vmmPid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error; // the operation has ended it
  }
}

const host = await (order.driver === "fake" ? openFake() : openReal());
await prepareCrash(host, order.operation, order.sandboxId, order.driver === "fake" ? 256 : 512);
vmmPid = await host.vmmPid(order.sandboxId);
await sleep(quietMs); // what the preparations began in the background is over
isArmed = true;
lastStepMs = performance.now();
await performCrash(host, order.operation, order.sandboxId, order.children);
while (performance.now() - lastStepMs < quietMs) await sleep(20);
writeFileSync(order.stepsFile, JSON.stringify(steps));
process.kill(process.pid, "SIGKILL"); // after the last step

interface ChildHost extends CrashHost {
  vmmPid(sandboxId: string): Promise<number | undefined>;
}

async function openFake(): Promise<ChildHost> {
  const fake = await FakeHost.start({
    folder: order.folder,
    settings: crashSettings(order.operation, "fake"),
    deps: { onStep, onDurableStep: onStep },
  });
  return { ...fakeCrashHost(fake), vmmPid: async () => undefined };
}

async function openReal(): Promise<ChildHost> {
  const options = hostAgentOptions.read({ ...process.env }, { dir: order.folder, ...crashSettings(order.operation, "qemu") });
  const agent = await createHostAgent(options, { log: silentLogger, onStep, onDurableStep: onStep });
  await agent.start();
  const client = createClient(
    HostAgentService,
    createRouterTransport(({ service }) => service(HostAgentService, agent.service)),
  );
  return {
    ...realCrashHost(agent, client),
    vmmPid: async (sandboxId) => {
      const record = JSON.parse(await readFile(`${order.folder}/sandboxes/${sandboxId}/sandbox.json`, "utf8")) as {
        vm: { vmm: { pid: number } } | null;
      };
      return record.vm?.vmm.pid;
    },
  };
}
