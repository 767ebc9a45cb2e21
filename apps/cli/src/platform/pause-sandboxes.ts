import type { Client } from "@connectrpc/connect";
import { SandboxState, type HostAgentService, type Sandbox } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { nap } from "@roost/kit";

import { pauseTimeoutMs } from "./end-request.ts";
import type { PauseReport } from "./pause-report.ts";

/** Time between two looks at how far it is in `ms` */
const lookIntervalMs = 250;

/** Pauses all sandboxes of a host, a few at a time as the host agent does it, and tells how far it is. Those that fail go on. */
export async function pauseSandboxes(
  host: Client<typeof HostAgentService>,
  onProgress: (report: PauseReport) => Promise<void>,
): Promise<PauseReport> {
  const running = new Set((await list(host)).filter(({ state }) => !isAtRest(state)).map(idOf));
  const total = running.size;
  const pausing = host.pauseAll({}, { timeoutMs: pauseTimeoutMs });
  const settled = new AbortController();
  void pausing.then(
    () => settled.abort(),
    () => settled.abort(),
  );
  while (!settled.signal.aborted) {
    const paused = (await list(host)).filter((sandbox) => sandbox.state === SandboxState.PAUSED && running.has(idOf(sandbox))).length;
    await onProgress({ total, paused, failed: [], isOver: false });
    await nap(lookIntervalMs, settled.signal);
  }
  const { pausedSandboxIds, failed } = await pausing;
  return {
    total,
    paused: pausedSandboxIds.length,
    failed: failed.map(({ sandboxId, message }) => ({ sandboxId, message })),
    isOver: true,
  };
}

/** Nothing of it runs that could be paused. */
function isAtRest(state: SandboxState): boolean {
  return (
    state === SandboxState.PAUSED || state === SandboxState.FAILED || state === SandboxState.STOPPING || state === SandboxState.STOPPED
  );
}

function idOf(sandbox: Sandbox): string {
  return sandbox.spec?.sandboxId ?? "";
}

async function list(host: Client<typeof HostAgentService>): Promise<readonly Sandbox[]> {
  return (await host.listSandboxes({}, { timeoutMs: 30_000 })).sandboxes;
}
