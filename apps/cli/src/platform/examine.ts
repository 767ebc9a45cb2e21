import { controlPlaneOptions } from "@roost/control-plane/options";
import { hostAgentOptions } from "@roost/host-agent/options";

import type { CommandContext } from "../context.ts";
import { describeFailure } from "../failure.ts";
import { checkAccelerator, checkDiskSpace, checkForwarding, requiredChecks, type Check } from "./checks.ts";
import { findRunning, type RunningPlatform } from "./endpoint.ts";

/** All that `roost doctor` looks at. It changes nothing. */
export async function examine(context: CommandContext): Promise<Check[]> {
  const { environment } = context.io;
  const controlPlane = controlPlaneOptions.read(environment, { dir: context.settings.dir });
  const hostAgent = hostAgentOptions.read(environment, { dir: context.settings.dir });
  const running = await findRunning(controlPlane.dir);
  const required = await requiredChecks(
    { dir: controlPlane.dir, cacheDir: hostAgent.cacheDir },
    { host: controlPlane.address, port: controlPlane.port },
  );
  // a running platform has its port, of course
  const checks = running === undefined ? required : required.filter((check) => check.name !== "port");
  return [
    ...checks,
    await checkDiskSpace("image cache", hostAgent.cacheDir),
    await checkForwarding(),
    ...(running === undefined
      ? [
          await checkAccelerator(),
          { name: "platform", status: "warn", detail: "not running", fix: "start it: roost up --detach" } satisfies Check,
        ]
      : await checkRunning(context, running)),
  ];
}

async function checkRunning(context: CommandContext, { endpoint }: RunningPlatform): Promise<Check[]> {
  const fix = "look into its log, logs/roost.log in the state folder; `roost down` and `roost up --detach` start it anew";
  try {
    const answer = await fetch(new URL("/health", endpoint.url), { signal: AbortSignal.any([context.signal, AbortSignal.timeout(5_000)]) });
    const detail = `pid ${endpoint.pid} at ${endpoint.url}`;
    const health: Check = answer.ok
      ? { name: "platform", status: "ok", detail: `healthy, ${detail}` }
      : { name: "platform", status: "fail", detail: `not healthy, ${detail}: ${(await answer.text()).slice(0, 300)}`, fix };
    const hosts = await (await context.client()).hosts.list({ signal: context.signal });
    return [
      health,
      ...hosts.flatMap(({ description }): Check[] =>
        description === null
          ? []
          : [{ name: "accelerator", status: "ok", detail: `${description.accelerator}: ${description.accelerator_reason}` }],
      ),
    ];
  } catch (error) {
    return [{ name: "platform", status: "fail", detail: `pid ${endpoint.pid} does not answer: ${describeFailure(error).message}`, fix }];
  }
}
