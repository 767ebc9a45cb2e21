import { decide } from "@roost/contract";
import { second } from "@roost/kit";

import type { SandboxRow } from "../db/sandboxes.ts";
import { saveTimeoutMs } from "../hosts/host-link.ts";
import { useOf } from "../sandboxes/require-state.ts";
import { notFound, refusal, RefusedError, type Refusal } from "./refusals.ts";

/** How long a change of state is waited for in `ms` where nobody asked that requests wake the sandbox: most take less */
const settleTimeoutMs = 2 * second;
/** Time between two looks at a sandbox whose change is waited for in `ms`, when nobody tells of one */
const lookIntervalMs = 250;

export interface UsableSandboxDependencies {
  /** The record as it is now, as readers see it */
  readonly find: (id: string) => Promise<SandboxRow | undefined>;
  /** Resumes a paused sandbox, however many ask; resolves when it runs */
  readonly wake: (sandbox: SandboxRow) => Promise<unknown>;
  /** Resolves when the record changes, or after `timeoutMs` */
  readonly changed: (id: string, timeoutMs: number) => Promise<void>;
  /** Whether whoever asked still waits */
  readonly isWanted: () => boolean;
}

export function isUsable(sandbox: SandboxRow): boolean {
  return decide(sandbox.state, useOf(sandbox)).kind !== "deny";
}

/**
 * The sandbox once its guest can be reached, or a `RefusedError`. A paused one is resumed if requests may do that; a change that is under way is
 * waited for, briefly where none may. `wasRefused`: the host has just said that it cannot be reached, so the record may be behind.
 */
export async function untilUsable(deps: UsableSandboxDependencies, id: string, wasRefused: boolean): Promise<SandboxRow> {
  const start = performance.now();
  for (let looks = 0; ; looks += 1) {
    const sandbox = await deps.find(id);
    if (!deps.isWanted()) throw new RefusedError(refusal(499, "the client is gone", { sandboxId: id }));
    if (sandbox === undefined) throw new RefusedError(notFound(id));
    const refused = whyNever(sandbox);
    if (refused !== undefined) throw new RefusedError(refused);
    const isBehind = wasRefused && looks === 0;
    if (isUsable(sandbox) && !isBehind) return sandbox;
    if (sandbox.auto_resume && (sandbox.state === "paused" || isUsable(sandbox))) {
      await deps.wake(sandbox);
      continue;
    }
    if (performance.now() - start > (sandbox.auto_resume ? saveTimeoutMs : settleTimeoutMs)) throw new RefusedError(inTransition(id));
    await deps.changed(id, lookIntervalMs);
  }
}

/** Why no request gets to a sandbox, whoever waits or wakes it. Who may not wake a paused sandbox is told no more than that there is none. */
export function whyNever(sandbox: SandboxRow): Refusal | undefined {
  const { id, state } = sandbox;
  if (state === "stopping" || state === "stopped" || state === "failed") return notFound(id);
  if (state !== "paused") return undefined;
  if (!sandbox.auto_resume) return notFound(id);
  // It would boot: programs that a request could be for do not run then.
  return sandbox.has_memory
    ? undefined
    : refusal(403, "The sandbox was paused without its memory, so a request does not resume it: connect to it", { sandboxId: id });
}

/** Its state is changing, and that is not waited for, or no longer. */
export function inTransition(id: string): Refusal {
  return refusal(409, "The sandbox is changing its state: try again in a moment", { sandboxId: id, retryAfterSec: 1 });
}
