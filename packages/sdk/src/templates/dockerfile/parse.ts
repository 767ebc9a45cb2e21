import { DockerfileParser, type Instruction as ParsedInstruction } from "dockerfile-ast";

import { DockerfileError, type Place } from "./dockerfile-error.ts";

/**
 * Cuts a Dockerfile into instructions. Where instructions, flags and here-documents begin and end is the parser's business; what their arguments mean differs from
 * instruction to instruction, so they are handed on as text, with continued lines joined as Docker joins them.
 */

/** Bytes of a Dockerfile; Docker's own limit is of this order, and nobody writes more by hand */
const dockerfileLengthMax = 1024 * 1024;

export interface Flag {
  readonly name: string;
  /** null: a flag without `=` */
  readonly value: string | null;
}

export interface HereDocument {
  readonly name: string;
  /** As it reaches a program: tabs stripped for `<<-` */
  readonly content: string;
  /** With its delimiter, as it was written */
  readonly raw: string;
  /** Whether variables in it are expanded: its name was not quoted */
  readonly isExpanded: boolean;
}

export interface Instruction {
  readonly place: Place;
  readonly flags: readonly Flag[];
  /** Arguments behind the flags, without comments and line ends; for one with here-documents, what stands before the first */
  readonly text: string;
  readonly hereDocuments: readonly HereDocument[];
}

export interface ParsedDockerfile {
  readonly file: string;
  /** `\` or a backtick */
  readonly escape: string;
  readonly instructions: readonly Instruction[];
}

const knownKeywords = new Set(
  "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL USER VOLUME WORKDIR".split(" "),
);
const withHereDocuments = new Set(["RUN", "COPY", "ADD"]);

export function parseDockerfile(text: string, file: string): ParsedDockerfile {
  const top: Place = { file, line: 1, keyword: "Dockerfile" };
  if (text.length > dockerfileLengthMax) throw new DockerfileError(top, `it is longer than ${dockerfileLengthMax} characters`);
  if (text.includes("\0")) throw new DockerfileError(top, "it holds a NUL; a Dockerfile is text");
  const parsed = DockerfileParser.parse(text.replace(/^\uFEFF/, "").replaceAll("\r\n", "\n"));
  const escape = parsed.getEscapeCharacter();
  return { file, escape, instructions: parsed.getInstructions().map((instruction) => instructionOf(instruction, file, escape)) };
}

function instructionOf(parsed: ParsedInstruction, file: string, escape: string): Instruction {
  const place: Place = { file, line: parsed.getInstructionRange().start.line + 1, keyword: parsed.getKeyword() };
  if (!knownKeywords.has(place.keyword)) {
    throw new DockerfileError(place, `there is no such instruction; known are ${[...knownKeywords].join(", ")}`);
  }
  const lines = (parsed.getRawArgumentsContent() ?? "").split("\n");
  const { text, next } = joinLines(lines, escape);
  const flags = "getFlags" in parsed ? (parsed as unknown as { getFlags(): readonly ParsedFlag[] }).getFlags() : [];
  const hereDocuments = withHereDocuments.has(place.keyword) ? readHereDocuments(text, lines.slice(next), place) : [];
  return { place, flags: flags.map((flag) => ({ name: flag.getName(), value: flag.getValue() })), text, hereDocuments };
}

interface ParsedFlag {
  getName(): string;
  getValue(): string | null;
}

/** One instruction's first line, with the lines that continue it: comments and empty lines among them are nothing. `next` is the line after it. */
function joinLines(lines: readonly string[], escape: string): { readonly text: string; readonly next: number } {
  let text = "";
  for (const [index, line] of lines.entries()) {
    if (index > 0 && (/^\s*#/.test(line) || line.trim() === "")) continue;
    const trimmed = line.replace(/[ \t]+$/, "");
    if (!trimmed.endsWith(escape)) return { text: (text + line).trim(), next: index + 1 };
    text += trimmed.slice(0, -escape.length);
  }
  return { text: text.trim(), next: lines.length };
}

/** `<<EOF`, `<<-EOF`, `<<"EOF"`, with a file descriptor before it; a word of its own, as BuildKit has it. */
const hereDocumentPattern = /^\d*<<(-?)(?:"([^"<]+)"|'([^'<]+)'|([^\s"'<]+))$/;

function readHereDocuments(text: string, lines: readonly string[], place: Place): HereDocument[] {
  if (lines.length === 0) return [];
  let at = 0;
  const found: HereDocument[] = [];
  for (const word of text.split(/\s+/)) {
    const match = hereDocumentPattern.exec(word);
    if (match === null) continue;
    const name = match[2] ?? match[3] ?? match[4] ?? "";
    const isStripped = match[1] === "-";
    const strip = (line: string) => (isStripped ? line.replace(/^\t+/, "") : line);
    const end = lines.findIndex((line, index) => index >= at && strip(line) === name);
    if (end < 0) throw new DockerfileError(place, `the here-document ${word} has no end; it ends with a line that is ${name}`);
    const body = lines.slice(at, end);
    found.push({
      name,
      content: body.map((line) => `${strip(line)}\n`).join(""),
      raw: lines.slice(at, end + 1).join("\n"),
      isExpanded: match[4] !== undefined,
    });
    at = end + 1;
  }
  if (lines.slice(at).some((line) => line.trim() !== "")) {
    throw new DockerfileError(place, "its here-document cannot be told from what follows; begin it with a word of its own such as <<EOF");
  }
  return found;
}
