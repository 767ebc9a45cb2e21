import type { SandboxRecord, StartPath } from "./sandbox-record.ts";
import { asStartFailure, type StartedVm, type StartFailure } from "./start-vm.ts";

/** A VM that runs, and how it came to. */
export interface CreatedVm {
  readonly started: StartedVm;
  readonly startPath: StartPath;
  /** What the record says of where it came from */
  readonly origin: Partial<SandboxRecord>;
}

export type CreateOutcome = { readonly created: CreatedVm } | { readonly failure: StartFailure };

export interface CreateInFlight {
  readonly abort: AbortController;
  /** Never rejects */
  readonly outcome: Promise<CreateOutcome>;
  /** Its outcome has been taken into account */
  settled: boolean;
}

export interface StartCall {
  /** Keeps what leads to the VM durably */
  readonly keep: (patch: Partial<SandboxRecord>) => Promise<void>;
  readonly signal: AbortSignal;
}

/** Begins a create that runs beside the sandbox's loop. */
export function beginCreate(start: (call: StartCall) => Promise<CreatedVm>, keep: StartCall["keep"]): CreateInFlight {
  const abort = new AbortController();
  const outcome = start({ keep, signal: abort.signal }).then(
    (created): CreateOutcome => ({ created }),
    (error: unknown): CreateOutcome => ({ failure: asStartFailure(error) }),
  );
  return { abort, outcome, settled: false };
}
