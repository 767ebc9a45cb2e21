import { fileBytesMax, recipeSchema, type RecipeInput, type RecipeStep } from "@roost/contract";

import { RoostError } from "../errors.ts";
import { hashArchive, type BuildArchive, type ReadingOptions } from "./context/archive.ts";
import { ContextFolder } from "./context/context-folder.ts";
import { layOut } from "./context/layout.ts";
import type { DockerfileNote } from "./dockerfile/dockerfile-error.ts";
import { planDockerfile } from "./dockerfile/plan-dockerfile.ts";
import { imageArchive } from "./image-archive.ts";
import { describeIssues, parseLocalRecipe, planRecipe, type LocalRecipe } from "./local-recipe.ts";
import type { LocalCopy, PlannedStage, PlannedStep, RecipePlan } from "./recipe-plan.ts";

/** Time in `s` that a start command is given when nothing says when it is ready, as E2B does it */
const startGraceSec = 20;

interface SourceOptions {
  /** Folder that files are copied from; default: there is none */
  readonly context?: string | undefined;
  /** What messages call the Dockerfile or recipe */
  readonly file?: string | undefined;
  /** In place of what the Dockerfile (CMD, ENTRYPOINT) or recipe starts; empty: nothing is started */
  readonly startCommand?: string | undefined;
  readonly readyCommand?: string | undefined;
  /** Nothing from the cache */
  readonly force?: boolean | undefined;
}

export interface DockerfileSource extends SourceOptions {
  /** Its text */
  readonly dockerfile: string;
  /** Where it is, when it is a file: a `.dockerignore` with its name is looked for beside it */
  readonly path?: string | undefined;
  readonly buildArgs?: Readonly<Record<string, string>> | undefined;
  /** Name or number of the stage to build; default: the last */
  readonly target?: string | undefined;
}

export interface RecipeFileSource extends SourceOptions {
  /** Or its text, as JSON; copies in it that have no `files` take them from the context */
  readonly recipe: LocalRecipe | string;
}

/** An image that is here: a tar archive of it, or a folder with an OCI layout. */
export interface ImageArchiveSource extends Omit<SourceOptions, "context" | "file"> {
  readonly imageArchive: string;
}

/** What a template can be built from. */
export type BuildSource = DockerfileSource | RecipeFileSource | ImageArchiveSource;

/** Where a step comes from, and how it reads. */
export interface StepOrigin {
  /** `Dockerfile:7: RUN` */
  readonly where: string;
  readonly text: string;
}

/** A recipe as the server takes it, with the archives that it names. */
export interface PreparedBuild {
  readonly recipe: RecipeInput;
  /** By hash; packed and sent when the platform lacks them */
  readonly archives: ReadonlyMap<string, BuildArchive>;
  /** By step as logs and failures name it: `3`, `stage build 0` */
  readonly origins: ReadonlyMap<string, StepOrigin>;
  readonly notes: readonly DockerfileNote[];
  /** Sockets, pipes and devices that were not copied */
  readonly skipped: readonly string[];
}

/** Translates what is to be built, and reads every file that it copies. Nothing is sent. */
export async function prepareBuild(source: BuildSource, options: ReadingOptions = {}): Promise<PreparedBuild> {
  const archives = new Map<string, BuildArchive>();
  const { plan, context } = await planOf(source, archives, options);
  const origins = new Map<string, StepOrigin>();
  const stepsOf = async ({ steps, name }: PlannedStage, isMain: boolean): Promise<RecipeStep[]> => {
    const done: RecipeStep[] = [];
    for (const [index, { step, where, text }] of steps.entries()) {
      origins.set(isMain ? String(index) : `stage ${name} ${index}`, { where, text });
      done.push(step.kind === "local-copy" ? await packed(step, where, context, archives, options) : step);
    }
    return done;
  };
  const stages: NonNullable<RecipeInput["stages"]> = [];
  for (const stage of plan.stages) stages.push({ name: stage.name, from: stage.from, steps: await stepsOf(stage, false) });
  const recipe: RecipeInput = {
    from: plan.main.from,
    stages,
    steps: await stepsOf(plan.main, true),
    ...(plan.startCommand === undefined ? {} : { start_command: plan.startCommand }),
    ...(plan.readyCommand === undefined ? {} : { ready_command: plan.readyCommand }),
    force: plan.force,
  };
  check(recipe, plan);
  return { recipe, archives, origins, notes: plan.notes, skipped: context?.skipped ?? [] };
}

interface Planned {
  readonly plan: RecipePlan;
  readonly context: ContextFolder | undefined;
}

async function planOf(source: BuildSource, archives: Map<string, BuildArchive>, options: ReadingOptions): Promise<Planned> {
  if ("imageArchive" in source) {
    const archive = await imageArchive(source.imageArchive);
    const hash = await hashArchive(archive, options);
    archives.set(hash, archive);
    return { plan: withCommands(planRecipe({ from: { archive: hash } }, source.imageArchive), source), context: undefined };
  }
  const isDockerfile = "dockerfile" in source;
  const plan = isDockerfile ? dockerfilePlan(source) : withCommands(recipePlan(source), source);
  const path = isDockerfile ? source.path : undefined;
  return { plan, context: source.context === undefined ? undefined : await ContextFolder.open(source.context, path) };
}

/** No Dockerfile can say when its program is ready. */
function dockerfilePlan(source: DockerfileSource): RecipePlan {
  const plan = withCommands(planDockerfile(source.dockerfile, source), source);
  const isBlind = plan.startCommand !== undefined && plan.readyCommand === undefined;
  return isBlind ? { ...plan, readyCommand: `sleep ${startGraceSec}` } : plan;
}

function withCommands(plan: RecipePlan, { startCommand, readyCommand, force }: SourceOptions): RecipePlan {
  return {
    ...plan,
    startCommand: startCommand === "" ? undefined : (startCommand ?? plan.startCommand),
    readyCommand: readyCommand ?? plan.readyCommand,
    force: plan.force || force === true,
  };
}

function recipePlan({ recipe, file = "recipe" }: RecipeFileSource): RecipePlan {
  return planRecipe(typeof recipe === "string" ? parseLocalRecipe(recipe, file) : recipe, file);
}

async function packed(
  copy: LocalCopy,
  where: string,
  context: ContextFolder | undefined,
  archives: Map<string, BuildArchive>,
  options: ReadingOptions,
): Promise<RecipeStep> {
  try {
    const { entries, source, destination } = await layOut(copy, context);
    const bytes = entries.reduce((sum, entry) => sum + (entry.kind === "file" ? entry.size : 0), 0);
    if (bytes > fileBytesMax)
      throw new RoostError("context_invalid", `it copies ${bytes} bytes, and at most ${fileBytesMax} can be sent; name less`);
    const archive: BuildArchive = { kind: "packed", entries, isCompressed: true };
    const files = await hashArchive(archive, options);
    archives.set(files, archive);
    const { user, mode, force } = copy;
    return {
      kind: "copy",
      files,
      source,
      destination,
      ...(user === undefined ? {} : { user }),
      ...(mode === undefined ? {} : { mode }),
      ...(force ? { force } : {}),
    };
  } catch (error) {
    throw error instanceof RoostError ? new RoostError(error.code, `${where}: ${error.message}`, { cause: error }) : error;
  }
}

/** What the contract would refuse is refused here, where it can be said which line it is. */
function check(recipe: RecipeInput, plan: RecipePlan): void {
  const parsed = recipeSchema.safeParse(recipe);
  if (parsed.success) return;
  const [issue] = parsed.error.issues;
  const where = issue === undefined ? plan.main.where : whereOf(issue.path, plan);
  throw new RoostError("dockerfile_invalid", `${where}: ${issue?.message ?? describeIssues(parsed.error)}`, { cause: parsed.error });
}

function whereOf(path: readonly PropertyKey[], { stages, main }: RecipePlan): string {
  const [first, index, ...rest] = path;
  const stage = first === "stages" ? stages[Number(index)] : main;
  const steps: readonly PlannedStep[] = stage?.steps ?? [];
  const [kind, number] = first === "stages" ? rest : [first, index];
  return (kind === "steps" ? steps[Number(number)]?.where : undefined) ?? stage?.where ?? main.where;
}
