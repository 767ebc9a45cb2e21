import type { Build } from "@roost/contract";

import { RoostError } from "../errors.ts";
import type { StepOrigin } from "./prepare.ts";

/** A build that failed (`build_failed`) or was cancelled (`build_cancelled`). The message says where in the Dockerfile or recipe, and why. */
export class BuildFailedError extends RoostError {
  readonly build: Build;
  /** As in the build's failure: `base`, number of a step, `stage <name> <number>`, `finalize`; null: none */
  readonly step: string | null;
  /** Where that step was said */
  readonly origin: StepOrigin | undefined;

  constructor(build: Build, origins: ReadonlyMap<string, StepOrigin>) {
    const step = build.failure?.step ?? null;
    const origin = step === null ? undefined : origins.get(step);
    const problem = build.failure?.message ?? `it ended as ${build.state}`;
    const text = `build ${build.id} of ${build.template}`;
    if (build.state === "cancelled") super("build_cancelled", `${text} was cancelled`);
    else super("build_failed", origin === undefined ? `${text} failed: ${problem}` : `${origin.where}: ${problem}`);
    this.build = build;
    this.step = step;
    this.origin = origin;
  }
}
