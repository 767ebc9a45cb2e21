import { isFolder, type InlineFile } from "../recipe-plan.ts";
import { DockerfileError, type Place } from "./dockerfile-error.ts";
import type { Instruction } from "./parse.ts";
import { checkFlags, execForm, flagValue, required, type StageBuilder } from "./stage-builder.ts";

/** What COPY makes belongs to root, whoever USER is. */
const ownerDefault = "root";

const flagReasons = {
  parents: ": name the destination folder of each source",
  exclude: ": list it in .dockerignore",
  checksum: ", because ADD takes no URLs here",
  "keep-git-dir": ", because ADD takes no repositories here",
  unpack: ": COPY the archive and unpack it by RUN tar -xf",
};

/** COPY, and ADD as far as it is one. */
export function copyInstruction(stage: StageBuilder, instruction: Instruction): void {
  const { place } = instruction;
  const isAdd = place.keyword === "ADD";
  checkFlags(instruction, isAdd ? ["chown", "chmod", "link"] : ["from", "chown", "chmod", "link"], flagReasons);
  const words = wordsOf(stage, instruction);
  const target = words.pop();
  const from = flagValue(instruction, "from");
  if (target === undefined || words.length === 0)
    throw new DockerfileError(place, `it needs a source and a destination; write ${place.keyword} source destination`);
  const inline: InlineFile[] = [];
  const sources: string[] = [];
  const hereDocuments = [...instruction.hereDocuments];
  for (const word of words) {
    const document = /^\d*<</.test(word) ? hereDocuments.shift() : undefined;
    if (document === undefined) sources.push(from === undefined ? stage.known(word, place, "a source") : stage.recipeText(word, place));
    else inline.push({ name: document.name, content: stage.inlineText(document.content, document.isExpanded, place) });
  }
  const destination = stage.recipeText(target, place);
  if (destination === "") throw new DockerfileError(place, "its destination is empty");
  if (words.length > 1 && !isFolder(destination)) {
    throw new DockerfileError(place, `${words.length} sources need a folder as destination; write ${destination}/`);
  }
  if (inline.some(({ name }) => /[/*?[\]{}]/.test(name))) {
    throw new DockerfileError(place, "the name of a here-document that becomes a file holds no '/' and none of *?[]{}");
  }
  const of = { destination, user: ownerOf(stage, instruction), mode: modeOf(stage, instruction) };
  if (from === undefined) {
    for (const source of isAdd ? sources : []) refuseRemote(source, place);
    stage.add(instruction, { kind: "local-copy", sources, inline, isAdd, force: false, ...of });
    return;
  }
  if (inline.length > 0) throw new DockerfileError(place, "a here-document does not come from another stage; leave out --from");
  const name = stage.stageOf(from, place);
  const { mode, ...rest } = of;
  for (const source of sources) {
    stage.add(instruction, { kind: "copy-from-stage", stage: name, source, ...rest, ...(mode === undefined ? {} : { mode }) });
  }
}

function wordsOf(stage: StageBuilder, instruction: Instruction): string[] {
  const text = required(instruction, "source destination");
  const words = execForm(text);
  if (words !== undefined) return words;
  if (text.startsWith("["))
    stage.warn(instruction.place, "it begins with [ but is not a JSON list of texts in double quotes; its words are taken as names");
  return text.split(/\s+/);
}

function ownerOf(stage: StageBuilder, instruction: Instruction): string {
  const given = flagValue(instruction, "chown");
  if (given === undefined) return ownerDefault;
  const owner = stage.known(given, instruction.place, "--chown");
  if (/^[^:]+(:[^:]+)?$/.test(owner)) return owner;
  throw new DockerfileError(instruction.place, `--chown=${owner} is no owner; write --chown=user or --chown=user:group`);
}

function modeOf(stage: StageBuilder, instruction: Instruction): string | undefined {
  const given = flagValue(instruction, "chmod");
  if (given === undefined) return undefined;
  const mode = stage.known(given, instruction.place, "--chmod");
  if (/^[0-7]{3,4}$/.test(mode)) return mode;
  throw new DockerfileError(instruction.place, `--chmod=${mode} is not supported; write it as an octal number such as --chmod=0755`);
}

function refuseRemote(source: string, place: Place): void {
  if (/^(https?|ftp):\/\//i.test(source)) {
    throw new DockerfileError(place, `it does not fetch ${source}; fetch it by RUN curl -fsSLo … ${source}, or download it and COPY it`);
  }
  if (/^(git@|git:\/\/|ssh:\/\/)|\.git(#|$)/i.test(source)) {
    throw new DockerfileError(place, `it does not clone ${source}; clone it by RUN git clone, or check it out and COPY it`);
  }
}
