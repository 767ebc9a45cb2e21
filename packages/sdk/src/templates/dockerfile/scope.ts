import type { Lookup } from "./words.ts";

/** What Docker knows without a declaration, and passes on only when it is given (https://docs.docker.com/reference/dockerfile/#predefined-args) */
const predefined = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"].flatMap((name) => [name, name.toLowerCase()]);
/** The only platform that sandboxes have */
const platform = { PLATFORM: "linux/amd64", OS: "linux", ARCH: "amd64", VARIANT: "" } as const;
const platformArguments: ReadonlyMap<string, string> = new Map(
  Object.entries(platform).flatMap(([key, value]) => [
    [`TARGET${key}`, value],
    [`BUILD${key}`, value],
  ]),
);
const defaultShell = ["/bin/sh", "-c"] as const;

/** Build arguments of the whole file: what was given, what is declared before the first FROM, and who asked for what. */
export class GlobalScope {
  readonly #given: ReadonlyMap<string, string>;
  readonly #declared = new Map<string, string | null>();
  readonly #used = new Set<string>();

  constructor(buildArgs: Readonly<Record<string, string>>) {
    this.#given = new Map(Object.entries(buildArgs));
  }

  /** The value of an ARG before the first FROM. */
  declare(name: string, fallback: string | null): void {
    this.#declared.set(name, this.#take(name) ?? fallback);
  }

  /** The value of an ARG in a stage: given, else its default, else what stands before the first FROM. */
  argument(name: string, fallback: string | null): string | null {
    return this.#take(name) ?? fallback ?? this.#declared.get(name) ?? platformArguments.get(name) ?? null;
  }

  /** What FROM lines may use. */
  readonly lookup: Lookup = (name) => this.#declared.get(name) ?? platformArguments.get(name) ?? null;

  /** Arguments that stages have without declaring them. */
  predefined(): Map<string, string> {
    const found = new Map<string, string>();
    for (const name of predefined) {
      const value = this.#take(name);
      if (value !== undefined) found.set(name, value);
    }
    return found;
  }

  /** Given, but no ARG wanted them. */
  unused(): string[] {
    return [...this.#given.keys()].filter((name) => !this.#used.has(name)).sort();
  }

  #take(name: string): string | undefined {
    this.#used.add(name);
    return this.#given.get(name);
  }
}

/** What instructions of one stage go by; a stage that begins from another one begins with its. */
export class StageScope {
  /** null: set, but only the build knows to what */
  readonly #envs: Map<string, string | null>;
  /** null: declared, without a value */
  readonly #args: Map<string, string | null>;
  shell: readonly string[];
  /** undefined: the base image's, which is not known here */
  workdir: string | undefined;
  command: readonly string[] | undefined;
  entrypoint: { readonly words: readonly string[]; readonly takesCommand: boolean } | undefined;

  constructor(base: StageScope | GlobalScope) {
    const parent = base instanceof StageScope ? base : undefined;
    this.#envs = new Map(parent === undefined ? [] : parent.#envs);
    this.#args = new Map(base instanceof StageScope ? base.#args : base.predefined());
    this.shell = parent?.shell ?? defaultShell;
    this.workdir = parent?.workdir;
    this.command = parent?.command;
    this.entrypoint = parent?.entrypoint;
  }

  setEnv(name: string, value: string | null): void {
    this.#envs.set(name, value);
  }

  setArgument(name: string, value: string | null): void {
    this.#args.set(name, value);
  }

  /** ENV wins over ARG, wherever they stand. */
  readonly lookup: Lookup = (name) => {
    if (this.#envs.has(name)) return this.#envs.get(name) ?? undefined;
    return this.#args.has(name) ? (this.#args.get(name) ?? null) : undefined;
  };

  /** Build arguments that programs of RUN find in their environment. */
  runArguments(): [string, string][] {
    return [...this.#args].filter((entry): entry is [string, string] => entry[1] !== null && !this.#envs.has(entry[0]));
  }
}
