import { DockerfileError } from "./dockerfile-error.ts";
import type { Instruction } from "./parse.ts";
import { shellCommand, shellQuote } from "./shell-quote.ts";
import { checkFlags, execForm, required, type StageBuilder } from "./stage-builder.ts";

const variableName = /^[A-Za-z_][A-Za-z0-9_]*$/;

/**
 * RUN. The command is handed to the Dockerfile's shell (`/bin/sh -c`, or what SHELL says) although a build has a shell of its own, because shells differ: Debian's sh and bash already
 * disagree about `echo "a\nb"`.
 */
export function runInstruction(stage: StageBuilder, instruction: Instruction): void {
  checkRunFlags(stage, instruction);
  stage.add(instruction, { kind: "run", command: assignments(stage, instruction) + commandOf(stage, instruction) });
}

function commandOf(stage: StageBuilder, instruction: Instruction): string {
  const { hereDocuments, place } = instruction;
  const text = required(instruction, "a command");
  const [first] = hereDocuments;
  if (first !== undefined) {
    const isAlone = hereDocuments.length === 1 && /^<<\S+$/.test(text);
    if (!isAlone) return shellCommand([...stage.scope.shell, [text, ...hereDocuments.map(({ raw }) => raw)].join("\n")]);
    return first.content.startsWith("#!") ? scriptCommand(first.content) : shellCommand([...stage.scope.shell, first.content]);
  }
  const words = execForm(text);
  if (words?.length === 0) throw new DockerfileError(place, "it runs nothing; write RUN with a command");
  if (words === undefined && text.startsWith("[")) stage.warn(place, looksLikeExecForm);
  return shellCommand(words ?? [...stage.scope.shell, text]);
}

export const looksLikeExecForm =
  'it begins with [ but is not a JSON list of texts in double quotes, such as ["program", "argument"]; as in Docker the shell runs it as it stands';

/** A here-document with an interpreter of its own is run as a file. */
function scriptCommand(content: string): string {
  const file = '"$ROOST_SCRIPT"';
  const write = `ROOST_SCRIPT=$(mktemp) && printf %s ${shellQuote(content)} > ${file} && chmod 0755 ${file}`;
  return `${write} && ${file}; ROOST_STATUS=$?; rm -f ${file}; exit $ROOST_STATUS`;
}

/** Build arguments are variables of RUN's environment, and of nothing later. */
function assignments(stage: StageBuilder, { place }: Instruction): string {
  const entries = stage.scope.runArguments();
  if (entries.length === 0) return "";
  for (const [name] of entries) {
    if (!variableName.test(name))
      throw new DockerfileError(place, `a shell knows no variable ${JSON.stringify(name)}; name the ARG with letters, digits and '_'`);
  }
  return `export ${entries.map(([name, value]) => `${name}=${shellQuote(value)}`).join(" ")}; `;
}

const mountAdvice: Readonly<Record<string, string>> = {
  bind: "COPY what it needs, and remove it in the same RUN that no longer does",
  secret: "what a template is built with stays readable in it; let sandboxes have secrets as environment variables instead",
  ssh: "there is no SSH agent in a build; COPY the sources instead",
};

function checkRunFlags(stage: StageBuilder, instruction: Instruction): void {
  const { place } = instruction;
  checkFlags(instruction, ["mount", "network"]);
  for (const { name, value } of instruction.flags) {
    if (name === "network" && value !== "default" && value !== null) {
      throw new DockerfileError(place, `--network=${value} is not supported; builds have the network that sandboxes have: leave it out`);
    }
    if (name !== "mount") continue;
    const type = /(?:^|,)type=([^,]*)/.exec(value ?? "")?.[1] ?? "bind";
    if (type !== "cache" && type !== "tmpfs") {
      throw new DockerfileError(
        place,
        `--mount=type=${type} is not supported; ${mountAdvice[type] ?? "accepted are type=cache and type=tmpfs"}`,
      );
    }
    const target = /(?:^|,)(?:target|dst|destination)=([^,]*)/.exec(value ?? "")?.[1] ?? "its target";
    stage.warn(place, `--mount=type=${type} is left out: what is written below ${target} stays in the template`);
  }
}
