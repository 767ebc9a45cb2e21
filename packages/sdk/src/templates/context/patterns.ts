import { posix } from "node:path";

import { RoostError } from "../../errors.ts";

/**
 * Patterns of file names as Docker has them: those of COPY know `*`, `?` and `[a-z]` within a name, those of .dockerignore also `**`, and `!` for what is not ignored after all. Neither is
 * what shells or .gitignore mean, so no library for those fits.
 */

export function isPattern(text: string): boolean {
  return /[*?[\\]/.test(text);
}

/** One name of a path against one part of a COPY's pattern. */
export function nameMatcher(pattern: string): (name: string) => boolean {
  const regExp = compile(pattern);
  return (name) => regExp.test(name);
}

interface IgnoreRule {
  readonly regExp: RegExp;
  readonly isException: boolean;
}

/** What .dockerignore hides of a context folder. */
export class IgnoreRules {
  readonly #rules: readonly IgnoreRule[];
  /** Whether something below what is hidden may be visible */
  readonly hasExceptions: boolean;

  constructor(text: string) {
    this.#rules = text
      .replace(/^\uFEFF/, "")
      .split(/\r?\n/)
      .flatMap(ruleOf);
    this.hasExceptions = this.#rules.some(({ isException }) => isException);
  }

  /** Of a path below the context folder, with `/` between names. A rule for a folder counts for all in it; the last that fits decides. */
  ignores(path: string): boolean {
    const names = path.split("/");
    const paths = names.map((_name, index) => names.slice(0, index + 1).join("/"));
    let isIgnored = false;
    for (const { regExp, isException } of this.#rules) {
      if (isException === isIgnored && paths.some((candidate) => regExp.test(candidate))) isIgnored = !isException;
    }
    return isIgnored;
  }
}

function ruleOf(line: string): IgnoreRule[] {
  if (line.startsWith("#")) return [];
  const text = line.trim();
  const isException = text.startsWith("!");
  const pattern = posix.normalize((isException ? text.slice(1) : text).trim()).replace(/^\/+|\/+$/g, "");
  if (text === "" || pattern === "" || pattern === ".") return [];
  return [{ regExp: compile(pattern), isException }];
}

/** `**` is any number of folders, which only rules can have: names hold no `/`. */
function compile(pattern: string): RegExp {
  let source = "";
  for (let at = 0; at < pattern.length; at += 1) {
    const character = pattern.charAt(at);
    if (pattern.startsWith("**/", at)) {
      source += "(?:.*/)?";
      at += 2;
    } else if (pattern.startsWith("**", at)) {
      source += ".*";
      at += 1;
    } else if (character === "*") source += "[^/]*";
    else if (character === "?") source += "[^/]";
    else if (character === "[") {
      const end = classEnd(pattern, at);
      source += classOf(pattern.slice(at + 1, end), pattern);
      at = end;
    } else {
      if (character === "\\") at += 1;
      source += escapeText(pattern.charAt(at));
    }
  }
  try {
    return new RegExp(`^${source}$`, "su");
  } catch (error) {
    throw patternError(pattern, error);
  }
}

function classEnd(pattern: string, start: number): number {
  for (let at = start + 2; at < pattern.length; at += 1) {
    if (pattern.charAt(at - 1) === "\\") continue;
    if (pattern.charAt(at) === "]") return at;
  }
  throw patternError(pattern);
}

function classOf(text: string, pattern: string): string {
  const isNegative = text.startsWith("^");
  const members = Array.from(isNegative ? text.slice(1) : text);
  if (members.length === 0) throw patternError(pattern);
  let inner = "";
  for (let at = 0; at < members.length; at += 1) {
    const member = members[at] ?? "";
    const isRange = member === "-" && at > 0 && at < members.length - 1;
    if (member === "\\") at += 1;
    const literal = members[at] ?? "";
    inner += isRange ? "-" : literal === "-" ? "\\-" : escapeText(literal);
  }
  return `[${isNegative ? "^/" : ""}${inner}]`;
}

const escapeText = (text: string): string => text.replaceAll(/[\\^$.*+?()[\]{}|/]/g, "\\$&");

function patternError(pattern: string, cause?: unknown): RoostError {
  return new RoostError(
    "context_invalid",
    `the pattern ${JSON.stringify(pattern)} is not well-formed: a [ without its ], or a wrong range`,
    { cause },
  );
}
