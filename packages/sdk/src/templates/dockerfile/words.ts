import { DockerfileError, type Place } from "./dockerfile-error.ts";

/**
 * Quotes and variables in arguments, as Docker reads them. A variable's value is known here (ARG, ENV of this file) or only in the build (ENV of the base image). So what comes out is a
 * sequence of texts and names; whoever uses it says whether names are allowed in it.
 */

/** Text, or a variable whose value only the build knows */
export type Part = string | { readonly variable: string };
export type Expanded = readonly Part[];

/** A variable's value; null: it has none; undefined: only the build knows it. */
export type Lookup = (name: string) => string | null | undefined;

export interface ExpandOptions {
  readonly escape: string;
  readonly lookup: Lookup;
  readonly place: Place;
  /** Quotes and escapes are text like any other: here-documents */
  readonly isRaw?: boolean;
}

const namePattern = /^[A-Za-z_][A-Za-z0-9_]*/;

/** One word, or a text with blanks in it: variables get their values, quotes and escapes go. */
export function expand(text: string, options: ExpandOptions): Expanded {
  return merge(new Expander(text, options).all());
}

/** The text when all of it is known here, otherwise an error that names the variable. */
export function known(expanded: Expanded, place: Place, what: string): string {
  return expanded
    .map((part) => {
      if (typeof part === "string") return part;
      const problem = `the value of $${part.variable} is not known before the build, because neither ARG nor ENV sets it in this stage`;
      throw new DockerfileError(place, `${problem}; ${what} needs it here: declare it by ARG ${part.variable}=…`);
    })
    .join("");
}

/** The form that recipes have: `$` is `$$`, and what only the build knows is `${NAME}`. */
export function recipeText(expanded: Expanded): string {
  return expanded.map((part) => (typeof part === "string" ? part.replaceAll("$", "$$$$") : `\${${part.variable}}`)).join("");
}

/** Words apart by blanks outside quotes; quotes and escapes stay in them. */
export function splitWords(text: string, escape: string): string[] {
  const words: string[] = [];
  let word = "";
  let quote = "";
  for (let at = 0; at < text.length; at += 1) {
    const character = text.charAt(at);
    if (quote === "" && /\s/.test(character)) {
      if (word !== "") words.push(word);
      word = "";
      continue;
    }
    word += character;
    if (character === escape && quote !== "'" && at + 1 < text.length) {
      at += 1;
      word += text.charAt(at);
    } else if (quote !== "") quote = character === quote ? "" : quote;
    else if (character === '"' || character === "'") quote = character;
  }
  if (word !== "") words.push(word);
  return words;
}

class Expander {
  readonly #text: string;
  readonly #options: ExpandOptions;
  #at = 0;

  constructor(text: string, options: ExpandOptions) {
    this.#text = text;
    this.#options = options;
  }

  all(): Part[] {
    return this.#until(undefined);
  }

  /** Reads on to `end`, which is taken too; to the end of the text when there is none. */
  #until(end: string | undefined): Part[] {
    const parts: Part[] = [];
    const isRaw = this.#options.isRaw === true;
    for (;;) {
      const character = this.#take();
      if (character === "") {
        if (end === undefined) return parts;
        throw new DockerfileError(this.#options.place, `there is no ${end} that ends what began before in ${JSON.stringify(this.#text)}`);
      }
      if (character === end) return parts;
      if (character === "$") parts.push(...this.#dollar());
      else if (character === this.#options.escape) parts.push((isRaw ? character : "") + this.#take());
      else if (character === "'" && !isRaw) parts.push(this.#singleQuoted());
      else if (character === '"' && !isRaw) parts.push(...this.#doubleQuoted());
      else parts.push(character);
    }
  }

  #singleQuoted(): string {
    const end = this.#text.indexOf("'", this.#at);
    if (end < 0)
      throw new DockerfileError(this.#options.place, `there is no ' that ends what began before in ${JSON.stringify(this.#text)}`);
    const text = this.#text.slice(this.#at, end);
    this.#at = end + 1;
    return text;
  }

  #doubleQuoted(): Part[] {
    const parts: Part[] = [];
    for (;;) {
      const character = this.#take();
      if (character === '"') return parts;
      if (character === "")
        throw new DockerfileError(this.#options.place, `there is no " that ends what began before in ${JSON.stringify(this.#text)}`);
      if (character === "$") parts.push(...this.#dollar());
      else if (character === this.#options.escape && ['"', "$", this.#options.escape].includes(this.#peek())) parts.push(this.#take());
      else parts.push(character);
    }
  }

  #dollar(): readonly Part[] {
    if (this.#peek() !== "{") {
      const name = this.#name();
      return name === "" ? ["$"] : this.#value(name);
    }
    this.#take();
    const name = this.#name();
    if (name === "") throw this.#unsupported();
    const operator = /^(?::?[-+?]|\})/.exec(this.#text.slice(this.#at))?.[0];
    if (operator === undefined) throw this.#unsupported();
    this.#at += operator.length;
    return operator === "}" ? this.#value(name) : this.#modified(name, operator, merge(this.#until("}")));
  }

  /** `${NAME:-word}` and its kin; without `:` a value that is empty counts as one. */
  #modified(name: string, operator: string, word: Expanded): readonly Part[] {
    const value = this.#options.lookup(name);
    const kind = operator.at(-1);
    if (value === undefined) {
      if (kind === "-" && word.length === 0) return this.#value(name);
      const problem = `\${${name}${operator}…} asks whether ${name} is set, which only the build knows`;
      throw new DockerfileError(this.#options.place, `${problem}; write $${name}, or declare it by ARG ${name}=…`);
    }
    const isSet = value !== null && !(operator.startsWith(":") && value === "");
    if (kind === "-") return isSet ? [value] : word;
    if (kind === "+") return isSet ? word : [];
    if (isSet) return [value];
    throw new DockerfileError(this.#options.place, `${name} must be set: ${recipeText(word)}`);
  }

  #value(name: string): readonly Part[] {
    const value = this.#options.lookup(name);
    return value === undefined ? [{ variable: name }] : [value ?? ""];
  }

  #unsupported(): DockerfileError {
    const forms = "${NAME}, ${NAME:-word}, ${NAME:+word}, ${NAME:?word} and those without ':'";
    return new DockerfileError(
      this.#options.place,
      `what \${ begins in ${JSON.stringify(this.#text)} is not supported; accepted are ${forms}`,
    );
  }

  #name(): string {
    const name = namePattern.exec(this.#text.slice(this.#at))?.[0] ?? "";
    this.#at += name.length;
    return name;
  }

  #peek(): string {
    return this.#text.charAt(this.#at);
  }

  #take(): string {
    const character = this.#text.charAt(this.#at);
    this.#at += 1;
    return character;
  }
}

/** Neighbouring texts as one; an empty text is none. */
function merge(parts: readonly Part[]): Expanded {
  const merged: Part[] = [];
  for (const part of parts) {
    const last = merged.at(-1);
    if (part === "") continue;
    if (typeof part === "string" && typeof last === "string") merged[merged.length - 1] = last + part;
    else merged.push(part);
  }
  return merged;
}
