import { createHash } from "node:crypto";

import type { RecipeStep } from "@roost/contract";

import type { StepContext } from "./step-context.ts";

/**
 * What a step's result follows from, as one hash: everything before it, the step, and what it runs with. Two steps with the same key would do the same, so the second one is not done.
 * What a command reads from the network is not in it: that is what `force` is for.
 */

/** Raise when the same step comes to mean something else */
const formatVersion = 2;
const nameDigits = 40;

/**
 * Of what a chain of steps begins from. `digest` names its content. Teams share no steps: files are known by the hash that their uploader gave them, so one team could make another begin from
 * what it put there, or learn what another has built.
 */
export function keyOfSource(teamId: string, digest: string): string {
  return hash({ formatVersion, team: teamId, source: digest });
}

/**
 * Of a step, with the key of what is before it. Steps that only change the context have one, too: a folder or an account that they make is in the next layer.
 * `stageKey`: of the end of the stage that is copied from.
 */
export function keyOfStep(parent: string, step: RecipeStep, context: StepContext, stageKey: string | undefined): string {
  const { force: _, ...content } = { force: undefined, ...step };
  return hash({ formatVersion, parent, step: { ...content, ...(stageKey === undefined ? {} : { stage: stageKey }) }, context });
}

/** What a build's template follows from, beside the disk after its last step. */
export interface ResultInputs {
  /** Of the last step */
  readonly key: string;
  readonly context: StepContext;
  readonly startCommand: string;
  readonly readyCommand: string;
  readonly vcpus: number;
  readonly memoryMib: number;
}

/** Of a build's template, with its memory. */
export function keyOfResult(inputs: ResultInputs): string {
  return hash({ formatVersion, result: inputs });
}

/** The name of a step's layer on a host. */
export function layerName(key: string): string {
  return `step-${key.slice(0, nameDigits)}`;
}

function hash(value: unknown): string {
  return createHash("sha256").update(canonical(value)).digest("hex");
}

/** JSON in which equal values are equal texts. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null";
  const entries = Object.entries(value).filter(([, each]) => each !== undefined);
  return `{${entries
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, each]) => `${JSON.stringify(name)}:${canonical(each)}`)
    .join(",")}}`;
}
