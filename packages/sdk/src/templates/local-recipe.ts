import { recipeSchema, type RecipeInput, type RecipeStep } from "@roost/contract";

import { RoostError } from "../errors.ts";
import { oneLine, type PlannedStage, type PlannedStep, type RecipePlan } from "./recipe-plan.ts";

/**
 * A recipe as people write it: its `copy` steps name files of this machine, below a context folder, instead of the hash of an archive. All else is the recipe that the server knows, and is
 * checked as such in the end.
 */

type CopyStep = Extract<RecipeStep, { readonly kind: "copy" }>;
/** Without `files` its `source` is a path or pattern below the context folder */
export type LocalStep = Exclude<RecipeStep, CopyStep> | (Omit<CopyStep, "files"> & Partial<Pick<CopyStep, "files">>);
export type LocalRecipe = Omit<RecipeInput, "steps" | "stages"> & {
  readonly steps?: readonly LocalStep[] | undefined;
  readonly stages?:
    | readonly { readonly name: string; readonly from: RecipeInput["from"]; readonly steps: readonly LocalStep[] }[]
    | undefined;
};

/** Stands for the hash of an archive that is not packed yet, so that a recipe can be checked as a whole before */
export const filesUnknown = "0".repeat(64);

/** Checks what was read from a file, and says what is wrong with it where. `file` is for messages. */
export function parseLocalRecipe(text: string, file: string): LocalRecipe {
  const refuse = (problem: string, cause?: unknown) => new RoostError("dockerfile_invalid", `${file}: ${problem}`, { cause });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw refuse("it is not JSON", error);
  }
  const parsed = recipeSchema.safeParse(withFiles(json));
  if (!parsed.success) throw refuse(describeIssues(parsed.error), parsed.error);
  return parsed.data;
}

export function describeIssues({
  issues,
}: {
  readonly issues: readonly { readonly path: readonly PropertyKey[]; readonly message: string }[];
}): string {
  return issues.map(({ path, message }) => `${path.map(String).join(".") || "it"}: ${message}`).join("; ");
}

/** The same with a hash in each copy that has none. */
function withFiles(json: unknown): unknown {
  if (Array.isArray(json)) return json.map(withFiles);
  if (typeof json !== "object" || json === null) return json;
  const { steps, stages, ...rest } = json as { readonly steps?: unknown; readonly stages?: unknown };
  const isCopy = (rest as { readonly kind?: unknown }).kind === "copy" && !Object.hasOwn(rest, "files");
  return {
    ...rest,
    ...(isCopy ? { files: filesUnknown } : {}),
    ...(steps === undefined ? {} : { steps: withFiles(steps) }),
    ...(stages === undefined ? {} : { stages: withFiles(stages) }),
  };
}

export function planRecipe(recipe: LocalRecipe, file: string): RecipePlan {
  const planned = (steps: readonly LocalStep[], path: string): PlannedStep[] =>
    steps.map((step, index) => ({ where: `${file}: ${path}[${index}]`, text: describeStep(step), step: plannedStep(step) }));
  return {
    stages: (recipe.stages ?? []).map(({ name, from, steps }, index): PlannedStage => ({
      name,
      where: `${file}: stages[${index}]`,
      from,
      steps: planned(steps, `stages[${index}].steps`),
    })),
    main: { name: "", where: file, from: recipe.from, steps: planned(recipe.steps ?? [], "steps") },
    startCommand: recipe.start_command,
    readyCommand: recipe.ready_command,
    force: recipe.force ?? false,
    notes: [],
  };
}

function plannedStep(step: LocalStep): PlannedStep["step"] {
  if (step.kind !== "copy") return step;
  const { files, source, destination, user, mode, force = false } = step;
  if (files !== undefined && files !== filesUnknown) return { ...step, files };
  return { kind: "local-copy", sources: [source], inline: [], destination, user, mode, force, isAdd: false };
}

/** A step in one line, in the words of a Dockerfile. */
function describeStep(step: LocalStep): string {
  switch (step.kind) {
    case "run":
      return oneLine(`RUN ${step.command}`);
    case "copy":
      return oneLine(`COPY ${step.source} ${step.destination}`);
    case "copy-from-stage":
      return oneLine(`COPY --from=${step.stage} ${step.source} ${step.destination}`);
    case "env":
      return oneLine(`ENV ${Object.keys(step.envs).join(" ")}`);
    case "workdir":
      return oneLine(`WORKDIR ${step.path}`);
    case "user":
      return `USER ${step.name}`;
  }
}
