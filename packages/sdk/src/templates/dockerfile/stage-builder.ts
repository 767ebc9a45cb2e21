import type { RecipeSource } from "@roost/contract";

import { oneLine, type PlannedStep } from "../recipe-plan.ts";
import { DockerfileError, textOf, type DockerfileNote, type Place } from "./dockerfile-error.ts";
import type { Instruction } from "./parse.ts";
import type { GlobalScope, StageScope } from "./scope.ts";
import { expand, known, recipeText, type Expanded } from "./words.ts";

export interface StageBuilderOptions {
  readonly globals: GlobalScope;
  readonly scope: StageScope;
  readonly escape: string;
  readonly notes: DockerfileNote[];
  /** Name of the stage that `--from` means */
  readonly stageOf: (reference: string, place: Place) => string;
}

/** What the instructions of one stage are gathered in. */
export class StageBuilder {
  readonly globals: GlobalScope;
  readonly scope: StageScope;
  readonly escape: string;
  readonly steps: PlannedStep[] = [];
  readonly stageOf: StageBuilderOptions["stageOf"];
  /** Whether this stage, not one that it begins from, has a CMD */
  hasCommand = false;
  readonly #notes: DockerfileNote[];

  constructor(options: StageBuilderOptions) {
    ({ globals: this.globals, scope: this.scope, escape: this.escape, stageOf: this.stageOf, notes: this.#notes } = options);
  }

  add(instruction: Instruction, step: PlannedStep["step"]): void {
    this.steps.push({ where: textOf(instruction.place), text: oneLine(`${instruction.place.keyword} ${instruction.text}`), step });
  }

  warn(place: Place, message: string): void {
    this.#notes.push({ ...place, level: "warning", message });
  }

  note(place: Place, message: string): void {
    this.#notes.push({ ...place, level: "note", message });
  }

  expand(text: string, place: Place): Expanded {
    return expand(text, { escape: this.escape, lookup: this.scope.lookup, place });
  }

  /** A value that is needed here. `what` is for the message: `COPY's source` */
  known(text: string, place: Place, what: string): string {
    return known(this.expand(text, place), place, what);
  }

  /** A value that the build completes. */
  recipeText(text: string, place: Place): string {
    return recipeText(this.expand(text, place));
  }

  /** The text of a here-document, with its variables' values unless its name was quoted. */
  inlineText(text: string, isExpanded: boolean, place: Place): string {
    if (!isExpanded) return text;
    return known(expand(text, { escape: this.escape, lookup: this.scope.lookup, place, isRaw: true }), place, "a here-document");
  }
}

/** `["a", "b"]` as words; undefined when it is not that form, which Docker then takes for a shell's. */
export function execForm(text: string): string[] | undefined {
  if (!text.startsWith("[")) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) && value.every((word) => typeof word === "string") ? value : undefined;
  } catch {
    return undefined;
  }
}

export function required(instruction: Instruction, what: string): string {
  if (instruction.text === "") throw new DockerfileError(instruction.place, `it says nothing; write ${instruction.place.keyword} ${what}`);
  return instruction.text;
}

/** Refuses flags that are not in the list, each with what is accepted. */
export function checkFlags(instruction: Instruction, accepted: readonly string[], reasons: Readonly<Record<string, string>> = {}): void {
  const { flags, place } = instruction;
  const seen = new Set<string>();
  for (const { name } of flags) {
    const only = accepted.length === 0 ? "no options" : accepted.map((flag) => `--${flag}`).join(", ");
    if (!accepted.includes(name)) throw new DockerfileError(place, `--${name} is not supported${reasons[name] ?? ""}; accepted: ${only}`);
    if (seen.has(name) && name !== "mount") throw new DockerfileError(place, `--${name} stands there twice`);
    seen.add(name);
  }
}

export function flagValue({ flags, place }: Instruction, name: string): string | undefined {
  const flag = flags.find((candidate) => candidate.name === name);
  if (flag === undefined) return undefined;
  if (flag.value === null || flag.value === "") throw new DockerfileError(place, `--${name} has no value; write --${name}=…`);
  return flag.value;
}

const templateScheme = "template://";

/** What FROM, or `--from`, names when it is no stage: an image, or one of the platform's templates as `template://NAME`. */
export function sourceOf(reference: string): RecipeSource {
  return reference.startsWith(templateScheme) ? { template: reference.slice(templateScheme.length) } : { image: reference };
}
