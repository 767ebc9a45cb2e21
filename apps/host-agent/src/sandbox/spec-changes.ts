import { decide, PlatformError, type EgressPolicy } from "@roost/contract";
import type { Logger } from "@roost/kit";

import type { SandboxContext } from "./context.ts";
import type { RecordKeeper } from "./record-keeper.ts";
import { authorityFor, type Authority } from "../egress/sandbox-authority.ts";
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
  const authority = await authorityFor(Object.keys(network.rules), spec.network.authority);
  const next = {
    allowOut: [...network.allowOut],
    denyOut: [...network.denyOut],
    proxy: network.proxy,
    rules: network.rules,
    limits: network.limits,
    authority,
  };
  if (running !== undefined && authority !== spec.network.authority) await tellAuthority(parts, running, authority);
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

/** Time the guest has to trust another authority, in `ms` */
const tellTimeoutMs = 20_000;

/**
 * Makes the guest trust another authority before connections are opened that it vouches for. A guest that does not answer keeps no rule from being taken away, only from being put in force:
 * its programs would refuse what is done for them.
 */
async function tellAuthority({ log }: SpecChangeParts, running: RunningVm, authority: Authority | null): Promise<void> {
  try {
    await running.client.trust(authority?.certificatePem ?? "", AbortSignal.any([running.signal, AbortSignal.timeout(tellTimeoutMs)]));
  } catch (error) {
    if (authority !== null)
      throw notChanged("could not be put in force: the guest agent did not take the certificate that its rules need", error);
    log.warn({ err: error }, "a guest was not told that it has no authority to trust any more");
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
