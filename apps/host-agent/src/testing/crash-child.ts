import { readFileSync, writeFileSync } from "node:fs";

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

function onStep(step: string): void {
  if (!isArmed) return;
  lastStepMs = performance.now();
  if (steps.length === order.killAt) {
    if (order.alsoVmm) killVmm();
    process.kill(process.pid, "SIGKILL");
  }
  steps.push(step);
}

/** The one that the record names now: the operation may have ended the former and started another. */
function killVmm(): void {
  try {
    const record = JSON.parse(readFileSync(`${order.folder}/sandboxes/${order.sandboxId}/sandbox.json`, "utf8")) as {
      vm: { vmm: { pid: number } } | null;
    };
    if (record.vm !== null) process.kill(record.vm.vmm.pid, "SIGKILL");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ESRCH" && code !== "ENOENT") throw error; // the operation has ended it, or removed its record with it
  }
}

const host = await (order.driver === "fake" ? openFake() : openReal());
await prepareCrash(host, order.operation, order.sandboxId, order.driver === "fake" ? 256 : 512);
await sleep(quietMs); // what the preparations began in the background is over
isArmed = true;
lastStepMs = performance.now();
await performCrash(host, order.operation, order.sandboxId, order.children);
while (performance.now() - lastStepMs < quietMs) await sleep(20);
writeFileSync(order.stepsFile, JSON.stringify(steps));
process.kill(process.pid, "SIGKILL"); // after the last step

async function openFake(): Promise<CrashHost> {
  return fakeCrashHost(
    await FakeHost.start({
      folder: order.folder,
      settings: crashSettings(order.operation, "fake"),
      deps: { onStep, onDurableStep: onStep },
    }),
  );
}

async function openReal(): Promise<CrashHost> {
  const options = hostAgentOptions.read({ ...process.env }, { dir: order.folder, ...crashSettings(order.operation, "qemu") });
  const agent = await createHostAgent(options, { log: silentLogger, onStep, onDurableStep: onStep });
  await agent.start();
  const client = createClient(
    HostAgentService,
    createRouterTransport(({ service }) => service(HostAgentService, agent.service)),
  );
  return realCrashHost(agent, client);
}
