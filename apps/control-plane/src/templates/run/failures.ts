import { PlatformError, type ErrorCode } from "@roost/contract";

/** A build cannot go on: what of the recipe that is about, and why, for its user. */
export class BuildFailed extends Error {
  override readonly name = "BuildFailed";
  /** As `buildStepSchema` says; null: nothing of the recipe */
  readonly step: string | null;

  constructor(step: string | null, message: string, options?: { readonly cause?: unknown }) {
    super(message, options);
    this.step = step;
  }
}

/** What ended a build from outside: it is the reason of its abort signal. */
export class BuildEnded extends Error {
  override readonly name = "BuildEnded";
  readonly why: "cancelled" | "claim-lost" | "shutdown" | "time-up";

  constructor(why: BuildEnded["why"]) {
    super(`the build ended: ${why}`);
    this.why = why;
  }
}

/** Failures of the sandbox that a step runs in, and not of the step: it may do better in another one. */
const sandboxLost: ReadonlySet<ErrorCode> = new Set([
  "guest_unreachable",
  "sandbox_not_found",
  "sandbox_wrong_state",
  "sandbox_start_failed",
  "snapshot_failed",
  "host_unreachable",
  "create_aborted",
  "template_not_found",
]);

export function isSandboxLost(error: unknown): error is PlatformError {
  return error instanceof PlatformError && sandboxLost.has(error.code);
}

/** Failures that pass by themselves: the host agent restarts, or others use what there is. */
const passing: ReadonlySet<ErrorCode> = new Set([
  "host_unreachable",
  "capacity_exhausted",
  "shutting_down",
  "rate_limited",
  "sandbox_busy",
]);

export function isPassing(error: unknown): error is PlatformError {
  return error instanceof PlatformError && passing.has(error.code);
}

/** What its user is told. */
export function messageOf(error: unknown): string {
  if (error instanceof BuildFailed) return error.message;
  if (error instanceof PlatformError) {
    const advice = error.code === "host_disk_full" ? "; delete templates or sandboxes that are not needed, then build again" : "";
    return `${error.message}${advice}`;
  }
  return "the control plane failed; its log says why";
}

/** The sandbox ended while a step was done, through no fault of the step. */
export class SandboxLost extends Error {
  override readonly name = "SandboxLost";
  readonly label: string;

  constructor(label: string, cause: unknown) {
    super("the sandbox of a build was lost", { cause });
    this.label = label;
  }

  toFailure(): BuildFailed {
    const message = `the sandbox in which the build works was lost again: ${messageOf(this.cause)}; build with more memory, or look at the host`;
    return new BuildFailed(this.label, message, { cause: this });
  }
}

/** An error with the step that it is about. */
export function attributed(error: unknown, label: string): unknown {
  if (error instanceof BuildFailed || error instanceof BuildEnded) return error;
  return new BuildFailed(label, messageOf(error), { cause: error });
}
