import { hostAgentOptions, membershipOptions } from "@roost/host-agent/options";
import type { AnyOptions } from "@roost/kit";

import type { CommandContext, CommonOptions } from "../context.ts";
import { machineChecks } from "../platform/checks.ts";
import { findRunning } from "../platform/endpoint.ts";
import { fateOptions, logOptions, refuseUnknownNames } from "../platform/platform-options.ts";
import { refuseToStart } from "../platform/refuse-to-start.ts";
import { alreadyRunning, runServer } from "../platform/run-server.ts";
import { fateOf } from "../platform/sandbox-fate.ts";
import { clientOptions } from "../settings.ts";

export async function hostAgent(
  context: CommandContext,
  flags: CommonOptions & Readonly<Record<string, unknown>>,
  tables: readonly AnyOptions[],
): Promise<number> {
  const { environment } = context.io;
  refuseUnknownNames(environment, [...tables, clientOptions]);
  const settings = { hostAgent: hostAgentOptions.read(environment, flags), membership: membershipOptions.read(environment, flags) };
  const logSettings = logOptions.read(environment, flags);
  const sandboxes = fateOf(fateOptions.read(environment, flags));
  const { dir, cacheDir } = settings.hostAgent;
  const running = await findRunning(dir);
  if (running !== undefined) throw alreadyRunning(dir, running.identity.pid);
  refuseToStart(await machineChecks({ dir, cacheDir }));
  const server = { dir, what: "the host agent", service: "roost-host-agent", log: logSettings, sandboxes } as const;
  return runServer(context, server, async (log) => {
    const { startHostAgentProcess } = await import("../platform/host-agent-process.ts");
    const process = await startHostAgentProcess(settings, log, context.signal);
    return { running: process, note: `This machine is host ${process.hostId} of ${process.controlPlane}, reached at ${process.address}.` };
  });
}
