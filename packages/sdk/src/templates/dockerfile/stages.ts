import { DockerfileError, type Place } from "./dockerfile-error.ts";
import { argumentsOf } from "./instructions.ts";
import type { Instruction, ParsedDockerfile } from "./parse.ts";
import type { GlobalScope } from "./scope.ts";
import { checkFlags, flagValue, required } from "./stage-builder.ts";
import { expand, known } from "./words.ts";

/** A FROM with what follows it, before anything of that is understood: stages that nobody needs may hold what is not supported. */
export interface WrittenStage {
  readonly index: number;
  /** In lower case; of one without AS: `stage-` and its number */
  readonly name: string;
  readonly place: Place;
  readonly platform: string | undefined;
  /** An image reference, or the name of an earlier stage */
  readonly base: string;
  readonly instructions: readonly Instruction[];
}

const stageNamePattern = /^[a-z][a-z0-9-_.]{0,63}$/;

/** Cuts the file at its FROMs. What ARG says before the first one is declared in `globals`. */
export function readStages(parsed: ParsedDockerfile, globals: GlobalScope): WrittenStage[] {
  const stages: (WrittenStage & { readonly instructions: Instruction[] })[] = [];
  const valueOf = (text: string, place: Place, what: string) =>
    known(expand(text, { escape: parsed.escape, lookup: globals.lookup, place }), place, what);
  for (const instruction of parsed.instructions) {
    const { place } = instruction;
    const current = stages.at(-1);
    if (place.keyword === "FROM") {
      stages.push({ ...fromOf(instruction, stages, valueOf), index: stages.length, instructions: [] });
    } else if (current !== undefined) current.instructions.push(instruction);
    else if (place.keyword === "ARG") {
      for (const { name, fallback } of argumentsOf(instruction, parsed.escape)) {
        globals.declare(name, fallback === undefined ? null : valueOf(fallback, place, "ARG"));
      }
    } else throw new DockerfileError(place, "only ARG may stand before the first FROM");
  }
  if (stages.length === 0)
    throw new DockerfileError(
      { file: parsed.file, line: 1, keyword: "Dockerfile" },
      "it has no FROM; begin it with one such as FROM debian:12-slim",
    );
  return stages;
}

function fromOf(
  instruction: Instruction,
  before: readonly WrittenStage[],
  valueOf: (text: string, place: Place, what: string) => string,
): Pick<WrittenStage, "name" | "place" | "platform" | "base"> {
  const { place } = instruction;
  checkFlags(instruction, ["platform"]);
  const [image = "", as, given, ...more] = required(instruction, "image, or FROM image AS name").split(/\s+/);
  if ((as !== undefined && (as.toLowerCase() !== "as" || given === undefined)) || more.length > 0) {
    throw new DockerfileError(place, `${JSON.stringify(instruction.text)} is not understood; write FROM image, or FROM image AS name`);
  }
  const name = given?.toLowerCase() ?? freeName(`stage-${before.length}`, before);
  if (!stageNamePattern.test(name)) {
    throw new DockerfileError(
      place,
      `${JSON.stringify(given)} is no name of a stage; it begins with a letter and holds letters, digits, '-', '_' and '.'`,
    );
  }
  if (before.some((stage) => stage.name === name))
    throw new DockerfileError(place, `there is a stage ${name} already; name this one otherwise`);
  const base = valueOf(image, place, "FROM");
  if (base === "") throw new DockerfileError(place, `${image} is empty; give the ARG in it a default, or pass it by --build-arg`);
  const platform = flagValue(instruction, "platform");
  return { name, place, base, platform: platform === undefined ? undefined : valueOf(platform, place, "--platform") };
}

export function freeName(wanted: string, taken: readonly { readonly name: string }[]): string {
  const names = new Set(taken.map(({ name }) => name));
  let name = wanted;
  for (let number = 2; names.has(name); number += 1) name = `${wanted}.${number}`;
  return name;
}

/** The stage that FROM or `--from` means: by name, or by number for the latter. */
export function findStage(reference: string, before: readonly WrittenStage[]): WrittenStage | undefined {
  const name = reference.toLowerCase();
  return before.find((stage) => stage.name === name);
}

export function findStageByNumber(reference: string, before: readonly WrittenStage[]): WrittenStage | undefined {
  return /^\d+$/.test(reference) ? before[Number(reference)] : undefined;
}

/** The stage that the template is made of: the one that was asked for, by name or number, else the last. */
export function targetOf(stages: readonly WrittenStage[], target: string | undefined, file: string): WrittenStage {
  const found = target === undefined ? stages.at(-1) : (findStage(target, stages) ?? findStageByNumber(target, stages));
  if (found !== undefined) return found;
  const place = { file, line: 1, keyword: "Dockerfile" };
  throw new DockerfileError(place, `it has no stage ${JSON.stringify(target)}; it has ${stages.map(({ name }) => name).join(", ")}`);
}

/** The stages that the target begins from or copies from, in the file's order, the target last. */
export function neededStages(target: WrittenStage, stages: readonly WrittenStage[]): WrittenStage[] {
  const needed = new Set<WrittenStage>();
  const visit = (stage: WrittenStage) => {
    if (needed.has(stage)) return;
    needed.add(stage);
    const before = stages.slice(0, stage.index);
    const references = stage.instructions.flatMap(({ flags }) =>
      flags.filter(({ name }) => name === "from").map(({ value }) => value ?? ""),
    );
    const found = [
      findStage(stage.base, before),
      ...references.map((reference) => findStage(reference, before) ?? findStageByNumber(reference, before)),
    ];
    for (const other of found) if (other !== undefined) visit(other);
  };
  visit(target);
  return [...needed].sort((a, b) => a.index - b.index);
}
