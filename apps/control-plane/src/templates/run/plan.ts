import type { RecipeStep } from "@roost/contract";

import { contextAfter, type StepContext } from "./step-context.ts";
import { keyOfStep, layerName } from "./step-keys.ts";

/** A step with all that is known of it before anything was done. */
export interface PlannedStep {
  readonly step: RecipeStep;
  /** As `buildStepSchema` says */
  readonly label: string;
  /** Before it */
  readonly context: StepContext;
  readonly key: string;
  /** Name of its result on hosts; undefined: it has none, what it does to the disk is in the next one */
  readonly layer: string | undefined;
  /** Whether it must be done, whatever there is */
  readonly isForced: boolean;
}

/** Steps one after another, and what they end in. */
export interface Plan {
  readonly steps: readonly PlannedStep[];
  readonly context: StepContext;
  readonly key: string;
}

export interface PlanInput {
  readonly steps: readonly RecipeStep[];
  /** Key and context of what they begin from */
  readonly key: string;
  readonly context: StepContext;
  /** undefined: the main steps */
  readonly stage: string | undefined;
  readonly force: boolean;
  /** Key of the end of an earlier stage */
  readonly keyOfStage: (name: string) => string;
}

export function planSteps({ steps, key: sourceKey, context: sourceContext, stage, force, keyOfStage }: PlanInput): Plan {
  let key = sourceKey;
  let context = sourceContext;
  let isForced = force;
  const planned = steps.map((step, index): PlannedStep => {
    key = keyOfStep(key, step, context, step.kind === "copy-from-stage" ? keyOfStage(step.stage) : undefined);
    isForced ||= "force" in step && step.force === true;
    const label = stage === undefined ? String(index) : `stage ${stage} ${index}`;
    const plan = { step, label, context, key, layer: hasLayer(step) ? layerName(key) : undefined, isForced };
    context = contextAfter(step, context);
    return plan;
  });
  return { steps: planned, context, key };
}

function hasLayer({ kind }: RecipeStep): boolean {
  return kind === "run" || kind === "copy" || kind === "copy-from-stage";
}

/** How many steps from the first on need not be done, because the last of them left a layer that can be used: what comes before it is in it. */
export function cachedPrefix(steps: readonly PlannedStep[], isUsable: (layer: string, step: PlannedStep) => boolean): number {
  return steps.findLastIndex((step) => step.layer !== undefined && isUsable(step.layer, step)) + 1;
}

/** A step as it reads in logs, in one line. */
export function describeStep(step: RecipeStep): string {
  switch (step.kind) {
    case "run":
      return `RUN ${oneLine(step.command)}${step.user === undefined ? "" : ` (as ${step.user})`}`;
    case "copy":
      return `COPY ${oneLine(step.source)} ${oneLine(step.destination)}`;
    case "copy-from-stage":
      return `COPY --from=${step.stage} ${oneLine(step.source)} ${oneLine(step.destination)}`;
    case "env":
      return `ENV ${Object.keys(step.envs).join(" ")}`; // values may be secret
    case "workdir":
      return `WORKDIR ${oneLine(step.path)}`;
    case "user":
      return `USER ${step.name}`;
  }
}

/** Characters of what a user wrote that are repeated in a line of the log */
const shownMax = 300;

function oneLine(text: string): string {
  const line = text.replaceAll(/\s+/g, " ").trim();
  return line.length > shownMax ? `${line.slice(0, shownMax)}…` : line;
}
