import { decide, PlatformError, type SandboxRequest } from "@roost/contract";

import type { RecordKeeper } from "./record-keeper.ts";

/** What a call is based on. */
export interface BasedOn {
  /** Undefined: whatever the sandbox is */
  readonly revision?: number | undefined;
}

export interface ResumeOptions extends BasedOn {
  readonly memory: boolean;
  readonly timeoutSec?: number;
  readonly isAutomatic?: boolean;
}

export interface Admission extends BasedOn {
  /** What, when it is so already, is answered however old the call is */
  readonly request?: SandboxRequest;
  /** It is about the move that holds the sandbox, or begins one */
  readonly isOfMove?: boolean;
}

/**
 * Lets a call change a sandbox, or refuses it because the sandbox is no longer what the call is based on.
 *
 * A connection that was cut for minutes delivers in the end what was sent over it, long after its sender has given up and another call was answered. Carried out then, it would undo what
 * somebody was told. So callers name the revision that they had seen, and whoever still wants it looks again.
 *
 * Finding it so already counts as a change, too: the answer is somebody's word, and what was sent before it must not fit any more.
 */
export async function admit(keeper: RecordKeeper, { revision, request, isOfMove = false }: Admission): Promise<void> {
  if (keeper.current.transit !== null && !isOfMove) {
    if (request?.kind === "pause") return; // it is paused; its revision is what its next host goes on from
    throw new PlatformError("sandbox_busy", "the sandbox is being moved to another host; try again in a moment", { retryAfterSec: 2 });
  }
  if (revision === undefined) return;
  const { state, revision: current } = keeper.current;
  if (request !== undefined && decide(state, request).kind === "ignore") return keeper.save({});
  if (revision < current) {
    throw new PlatformError("sandbox_changed", `the sandbox has changed: this is based on its revision ${revision}, it is at ${current}`);
  }
}
