import { posix } from "node:path";

import { copyInstruction } from "./copy-instruction.ts";
import { DockerfileError } from "./dockerfile-error.ts";
import type { Instruction } from "./parse.ts";
import { looksLikeExecForm, runInstruction } from "./run-instruction.ts";
import { checkFlags, execForm, required, type StageBuilder } from "./stage-builder.ts";
import { recipeText, splitWords } from "./words.ts";

type Handler = (stage: StageBuilder, instruction: Instruction) => void;

const leftOut =
  (reason: string): Handler =>
  (stage, { place }) =>
    stage.warn(place, `it is left out: ${reason}`);

/** What each instruction of a stage does. FROM is what divides stages. */
const handlers: Readonly<Record<string, Handler>> = {
  RUN: runInstruction,
  COPY: copyInstruction,
  ADD: copyInstruction,
  ENV: envInstruction,
  ARG: argInstruction,
  WORKDIR: workdirInstruction,
  USER: userInstruction,
  SHELL: shellInstruction,
  CMD: (stage, instruction) => {
    stage.scope.command = programOf(stage, instruction).words;
    stage.hasCommand = true;
  },
  ENTRYPOINT: (stage, instruction) => {
    const { words, isExec } = programOf(stage, instruction);
    stage.scope.entrypoint = { words, takesCommand: isExec };
    if (!stage.hasCommand) stage.scope.command = undefined; // one of a stage that this one begins from was meant for another entrypoint
  },
  EXPOSE: (stage, { place }) => stage.note(place, "nothing to do: every port of a sandbox can be reached, as its network policy allows"),
  LABEL: leftOut("templates have no labels"),
  MAINTAINER: leftOut("templates have no author"),
  STOPSIGNAL: leftOut("a sandbox is paused or ended as a whole"),
  HEALTHCHECK: leftOut("sandboxes are not probed; a ready command says when the template's memory is saved"),
  VOLUME: leftOut("a sandbox has one disk, and everything on it is kept"),
  ONBUILD: leftOut("templates have no triggers for later builds"),
};

export function applyInstruction(stage: StageBuilder, instruction: Instruction): void {
  const handler = handlers[instruction.place.keyword];
  if (handler === undefined) throw new DockerfileError(instruction.place, "it cannot stand here");
  handler(stage, instruction);
}

/** ENV NAME=value …, and the old ENV NAME value. Values of one instruction do not see each other. */
function envInstruction(stage: StageBuilder, instruction: Instruction): void {
  const { place } = instruction;
  const text = required(instruction, "NAME=value");
  const words = splitWords(text, stage.escape);
  const isOld = words[0]?.includes("=") !== true;
  const pairs = isOld ? [oldPair(text, instruction)] : words.map((word) => pairOf(word, instruction));
  const values = pairs.map(([name, value]) => [stage.known(name, place, "a name"), stage.expand(value, place)] as const);
  const envs: Record<string, string> = {};
  for (const [name, value] of values) {
    envs[name] = recipeText(value);
    stage.scope.setEnv(name, value.every((part) => typeof part === "string") ? value.join("") : null);
  }
  stage.add(instruction, { kind: "env", envs });
}

function pairOf(word: string, { place }: Instruction): readonly [string, string] {
  const at = word.indexOf("=");
  if (at > 0) return [word.slice(0, at), word.slice(at + 1)];
  throw new DockerfileError(place, `${JSON.stringify(word)} is not NAME=value; quote values with blanks: NAME="a b"`);
}

function oldPair(text: string, { place }: Instruction): readonly [string, string] {
  const match = /^(\S+)\s+(.+)$/s.exec(text);
  if (match === null) throw new DockerfileError(place, `${text} has no value; write ENV ${text}=value`);
  return [match[1] ?? "", match[2] ?? ""];
}

/** ARG NAME, ARG NAME=default, several of them. */
export function argumentsOf(instruction: Instruction, escape: string): { readonly name: string; readonly fallback: string | undefined }[] {
  return splitWords(required(instruction, "NAME or NAME=default"), escape).map((word) => {
    const at = word.indexOf("=");
    const name = at < 0 ? word : word.slice(0, at);
    if (!/^[A-Za-z_][A-Za-z0-9_.-]*$/.test(name)) {
      throw new DockerfileError(instruction.place, `${JSON.stringify(word)} is no argument; write ARG NAME or ARG NAME=default`);
    }
    return { name, fallback: at < 0 ? undefined : word.slice(at + 1) };
  });
}

function argInstruction(stage: StageBuilder, instruction: Instruction): void {
  for (const { name, fallback } of argumentsOf(instruction, stage.escape)) {
    const value = fallback === undefined ? null : stage.known(fallback, instruction.place, "ARG");
    stage.scope.setArgument(name, stage.globals.argument(name, value));
  }
}

function workdirInstruction(stage: StageBuilder, instruction: Instruction): void {
  const { place } = instruction;
  const expanded = stage.expand(required(instruction, "/folder"), place);
  if (expanded.length === 0) throw new DockerfileError(place, "its folder is empty; write WORKDIR /folder");
  const isKnown = expanded.every((part) => typeof part === "string");
  const path = recipeText(expanded);
  const before = stage.scope.workdir;
  // in the recipe's own form, in which `$` is doubled: only joined, never looked at
  const whole = path.startsWith("/") || before === undefined ? path : posix.join(before, path);
  stage.scope.workdir = isKnown && whole.startsWith("/") ? whole : undefined;
  stage.add(instruction, { kind: "workdir", path: whole });
}

function userInstruction(stage: StageBuilder, instruction: Instruction): void {
  const { place } = instruction;
  const given = stage.recipeText(required(instruction, "name"), place);
  const [name = "", group, ...more] = given.split(":");
  if (name === "" || more.length > 0) throw new DockerfileError(place, `${JSON.stringify(given)} is no user; write USER name`);
  if (group !== undefined && group !== name)
    stage.warn(place, `the group ${group} is left out: commands run with the groups that the account ${name} has`);
  stage.add(instruction, { kind: "user", name });
}

function shellInstruction(stage: StageBuilder, instruction: Instruction): void {
  const words = execForm(required(instruction, '["/bin/bash", "-c"]'));
  if (words === undefined || words.length === 0) {
    throw new DockerfileError(instruction.place, 'it takes a JSON list; write SHELL ["/bin/bash", "-o", "pipefail", "-c"]');
  }
  stage.scope.shell = words;
}

/** What CMD and ENTRYPOINT say: words of a program, or a line for the shell. */
function programOf(stage: StageBuilder, instruction: Instruction): { readonly words: readonly string[]; readonly isExec: boolean } {
  checkFlags(instruction, []);
  const { text, place } = instruction;
  if (text === "") return { words: [], isExec: true };
  const words = execForm(text);
  if (words !== undefined) return { words, isExec: true };
  if (text.startsWith("[")) stage.warn(place, looksLikeExecForm);
  return { words: [...stage.scope.shell, text], isExec: false };
}
