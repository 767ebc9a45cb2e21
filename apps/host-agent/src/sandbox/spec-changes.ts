import { decide, PlatformError, type EgressPolicy } from "@roost/contract";
import type { Logger } from "@roost/kit";

import type { SandboxContext } from "./context.ts";
import type { RecordKeeper } from "./record-keeper.ts";
import type { RunningVm } from "./running-vm.ts";
import type { SandboxSpec } from "./sandbox-record.ts";
import { wrongState } from "./wrong-state.ts";

/** What of a sandbox can be asked anew while it runs, or for when it runs again. Called by its loop, one at a time. */

export interface SpecChangeParts {
  readonly keeper: RecordKeeper;
  readonly context: SandboxContext;
  readonly running: RunningVm | undefined;
  readonly log: Logger;
}

/** Of a paused one it counts from its next resume. */
export async function changeTimeoutSec(parts: SpecChangeParts, timeoutSec: number): Promise<void> {
  const spec = specOfSettled(parts);
  await parts.keeper.save({ spec: { ...spec, timeoutSec } });
  parts.running?.activity.setTimeoutSec(timeoutSec);
}

/**
 * What its guest may reach: in force and written down when this resolves. If it cannot be put in force, or cannot be written down, the policy before stays.
 * In force first: a crash between the two leaves what was not acknowledged, and the next host agent puts the recorded one in force.
 */
export async function changeNetwork(parts: SpecChangeParts, network: EgressPolicy): Promise<void> {
  const { keeper, context, running, log } = parts;
  const spec = specOfSettled(parts);
  const next = { allowOut: [...network.allowOut], denyOut: [...network.denyOut], proxy: network.proxy };
  if (running !== undefined) {
    await context.network.setEgress(running.slot, next).catch((error: unknown) => {
      throw notChanged("could not be put in force", error);
    });
  }
  try {
    await keeper.save({ spec: { ...spec, network: next } });
  } catch (error) {
    if (running !== undefined) {
      await context.network.setEgress(running.slot, spec.network).catch((failure: unknown) => {
        log.error({ err: failure }, "a network policy that was not written down is in force; setting one again, or a restart, mends that");
      });
    }
    throw notChanged("could not be written down", error);
  }
}

function notChanged(why: string, cause: unknown): PlatformError {
  return new PlatformError("internal", `the network policy ${why}; the one before stays`, { detail: String(cause), cause });
}

function specOfSettled({ keeper }: SpecChangeParts): SandboxSpec {
  const { state, spec } = keeper.current;
  if (state === "running" || state === "paused") return spec;
  const decision = decide(state, { kind: "use" });
  throw wrongState(state, decision.kind === "deny" ? decision.reason : "change-in-progress");
}
