import type { Recipe, RecipeSource, RecipeStep } from "@roost/contract";
import { must } from "@roost/kit";

import type { BuildSource } from "./build-source.ts";
import { planSteps, type Plan } from "./plan.ts";

type StageSource = Extract<RecipeSource, { readonly stage: string }>;
/** What a recipe begins from, other than a stage of its own. */
export type OuterSource = Exclude<RecipeSource, StageSource>;

/** One chain of a recipe's steps: a stage, or the main one. */
export interface PlannedChain {
  /** undefined: the main one */
  readonly stage: string | undefined;
  readonly plan: Plan;
  /** What it begins from: something from outside, or the end of an earlier stage */
  readonly from: BuildSource | string;
  /** What its sandboxes run if nobody says otherwise */
  readonly inherited: Pick<BuildSource, "startCommand" | "readyCommand">;
}

/** Sources from outside that a recipe names, the main one last. */
export function outerSources({ from, stages }: Recipe): OuterSource[] {
  return [...stages.map((stage) => stage.from), from].filter((source): source is OuterSource => !("stage" in source));
}

/** What the main steps begin from in the end, through the stages that are between. */
export function mainSource({ from, stages }: Recipe): OuterSource {
  let source: RecipeSource = from;
  while ("stage" in source) {
    const { stage } = source;
    source = must(
      stages.find(({ name }) => name === stage),
      "a stage that the recipe's schema found",
    ).from;
  }
  return source;
}

/** Stages in their order, then the main steps. `sourceOf` answers for each of the `outerSources`. */
export function planRecipe(
  recipe: Recipe,
  sourceOf: (source: OuterSource) => BuildSource,
): { readonly stages: readonly PlannedChain[]; readonly main: PlannedChain } {
  const stages = new Map<string, PlannedChain>();
  const stageOf = (name: string) => must(stages.get(name), "a stage that the recipe's schema found"); // which checks their order
  const planOne = (stage: string | undefined, source: RecipeSource, steps: readonly RecipeStep[]): PlannedChain => {
    const before = "stage" in source ? stageOf(source.stage) : undefined;
    const from = "stage" in source ? source.stage : sourceOf(source);
    const start = before?.plan ?? (from as BuildSource);
    const plan = planSteps({
      steps,
      key: start.key,
      context: start.context,
      stage,
      force: recipe.force || (before?.plan.steps.some(({ isForced }) => isForced) ?? false),
      keyOfStage: (name) => stageOf(name).plan.key,
    });
    return { stage, plan, from, inherited: before?.inherited ?? (from as BuildSource) };
  };
  for (const { name, from, steps } of recipe.stages) stages.set(name, planOne(name, from, steps));
  return { stages: [...stages.values()], main: planOne(undefined, recipe.from, recipe.steps) };
}
