import type { RecipeSource } from "@roost/contract";

import type { RecipePlan, PlannedStage } from "../recipe-plan.ts";
import { DockerfileError, textOf, type DockerfileNote, type Place } from "./dockerfile-error.ts";
import { applyInstruction } from "./instructions.ts";
import { parseDockerfile } from "./parse.ts";
import { GlobalScope, StageScope } from "./scope.ts";
import { shellCommand } from "./shell-quote.ts";
import { sourceOf, StageBuilder } from "./stage-builder.ts";
import { findStage, findStageByNumber, freeName, neededStages, readStages, targetOf, type WrittenStage } from "./stages.ts";

export interface DockerfileOptions {
  /** Name in messages */
  readonly file?: string | undefined;
  readonly buildArgs?: Readonly<Record<string, string>> | undefined;
  /** Name or number of the stage to build; default: the last */
  readonly target?: string | undefined;
}

/**
 * What a Dockerfile comes to: sources, steps and the start command of a recipe, with its COPYs still to be packed. Stages that the target does not need are left out, as BuildKit does.
 * Variables are given their values here where ARG or ENV of the file sets them; what only the base image can know stays in the recipe as `${NAME}`.
 */
export function planDockerfile(text: string, options: DockerfileOptions = {}): RecipePlan {
  const parsed = parseDockerfile(text, options.file ?? "Dockerfile");
  const globals = new GlobalScope(options.buildArgs ?? {});
  const written = readStages(parsed, globals);
  const target = targetOf(written, options.target, parsed.file);
  const planner = new Planner(parsed.escape, globals, written);
  for (const stage of neededStages(target, written)) planner.plan(stage);
  for (const name of globals.unused()) {
    const place = { file: parsed.file, line: 1, keyword: "Dockerfile" };
    planner.notes.push({ ...place, level: "warning", message: `the build argument ${name} is not used: no ARG declares it` });
  }
  const main = planner.stages.pop();
  const scope = planner.scopes.get(target);
  if (main === undefined || scope === undefined) throw new Error("the target is among the stages that are needed");
  return {
    stages: planner.stages,
    main,
    startCommand: startCommandOf(scope),
    readyCommand: undefined,
    force: false,
    notes: planner.notes,
  };
}

class Planner {
  readonly notes: DockerfileNote[] = [];
  readonly stages: PlannedStage[] = [];
  readonly scopes = new Map<WrittenStage, StageScope>();
  readonly #escape: string;
  readonly #globals: GlobalScope;
  readonly #written: readonly WrittenStage[];
  /** Images that only `--from` names, each a stage without steps */
  readonly #images = new Map<string, string>();

  constructor(escape: string, globals: GlobalScope, written: readonly WrittenStage[]) {
    this.#escape = escape;
    this.#globals = globals;
    this.#written = written;
  }

  plan(written: WrittenStage): void {
    const { place, name, index } = written;
    checkPlatform(written);
    const base = findStage(written.base, this.#written.slice(0, index));
    const scope = new StageScope((base === undefined ? undefined : this.scopes.get(base)) ?? this.#globals);
    const stageOf = (reference: string, at: Place) => this.#stageOf(reference, at, written);
    const builder = new StageBuilder({ globals: this.#globals, scope, escape: this.#escape, notes: this.notes, stageOf });
    const from = base === undefined ? imageSource(written.base, place) : { stage: base.name };
    for (const instruction of written.instructions) applyInstruction(builder, instruction);
    this.scopes.set(written, scope);
    this.stages.push({ name, where: textOf(place), from, steps: builder.steps });
  }

  #stageOf(reference: string, place: Place, { index }: WrittenStage): string {
    const before = this.#written.slice(0, index);
    const stage = findStage(reference, before) ?? findStageByNumber(reference, before);
    if (stage !== undefined) return stage.name;
    if (/^\d+$/.test(reference))
      throw new DockerfileError(place, `--from=${reference} is no earlier stage; they are numbered from 0 to ${index - 1}`);
    if (reference.toLowerCase() === this.#written[index]?.name)
      throw new DockerfileError(place, `--from=${reference} is this stage itself`);
    const known = this.#images.get(reference);
    if (known !== undefined) return known;
    const name = freeName(`image-${this.#images.size}`, this.#written);
    this.stages.push({ name, where: textOf(place), from: imageSource(reference, place), steps: [] });
    this.#images.set(reference, name);
    return name;
  }
}

function imageSource(reference: string, place: Place): RecipeSource {
  if (reference.toLowerCase() !== "scratch") return sourceOf(reference);
  throw new DockerfileError(
    place,
    "scratch is empty, and a sandbox needs a system that commands can run in; begin from an image such as debian:12-slim or busybox",
  );
}

/** Sandboxes are x86-64 Linux, and nothing else can be emulated for one program of a build. */
function checkPlatform({ platform, place }: WrittenStage): void {
  if (platform === undefined || /^linux\/(amd64|x86_64)$/i.test(platform)) return;
  throw new DockerfileError(place, `--platform=${platform} is not supported; sandboxes are linux/amd64: leave it out`);
}

/** As Docker joins ENTRYPOINT and CMD; undefined when the file has neither. */
function startCommandOf({ entrypoint, command }: StageScope): string | undefined {
  const words =
    entrypoint === undefined || entrypoint.words.length === 0
      ? (command ?? [])
      : [...entrypoint.words, ...(entrypoint.takesCommand ? (command ?? []) : [])];
  return words.length === 0 ? undefined : shellCommand(words);
}
