import type { z } from "zod";

export interface OptionSpec {
  /** Parses the text of the setting; give it a default unless the setting is required. */
  readonly schema: z.ZodType;
  /** One line for `--help` and the docs. */
  readonly desc: string;
  /** Printed as `<redacted>`. */
  readonly secret?: boolean;
}

export type OptionTable = Readonly<Record<string, OptionSpec>>;
export type OptionValues<Table extends OptionTable> = { readonly [Key in keyof Table]: z.output<Table[Key]["schema"]> };

/** What all option tables have in common, whatever their settings. */
export interface AnyOptions {
  readonly table: OptionTable;
  readonly keys: readonly string[];
  environmentName(key: string): string;
  flagName(key: string): string;
}

/** A setting that is missing, unknown or wrong; the message names it as the operator would write it. */
export class OptionError extends Error {
  override readonly name = "OptionError";
}

/**
 * One table per process from which come environment names, flags, help, docs and the type.
 * `stateDir` of the prefix `ROOST_` is `ROOST_STATE_DIR` in the environment and `--state-dir` as a flag.
 */
export class Options<Table extends OptionTable> {
  readonly prefix: string;
  readonly table: Table;

  constructor(prefix: string, table: Table) {
    this.prefix = prefix;
    this.table = table;
  }

  environmentName(key: keyof Table & string): string {
    return this.prefix + key.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();
  }

  flagName(key: keyof Table & string): string {
    return `--${key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
  }

  get keys(): readonly (keyof Table & string)[] {
    return Object.keys(this.table);
  }

  /** Reads all settings; `flags` win over `environment`. Reports every problem at once. */
  read(environment: Readonly<Record<string, string | undefined>>, flags: Readonly<Record<string, unknown>> = {}): OptionValues<Table> {
    const values: Record<string, unknown> = {};
    const problems: string[] = [];
    for (const key of this.keys) {
      const name = this.environmentName(key);
      const given = flags[key] ?? environment[name];
      const parsed = this.table[key]?.schema.safeParse(given === "" ? undefined : given);
      if (parsed?.success === true) values[key] = parsed.data;
      else {
        const shown = this.table[key]?.secret === true ? "<redacted>" : JSON.stringify(given);
        const why = parsed?.error?.issues.map((issue) => issue.message).join("; ") ?? "";
        problems.push(given === undefined ? `${name} is required: ${this.table[key]?.desc}` : `${name}=${shown} is not valid: ${why}`);
      }
    }
    if (problems.length > 0) throw new OptionError(problems.join("\n"));
    return Object.freeze(values) as OptionValues<Table>;
  }

  /** Names of the environment that carry the prefix but that no table in `tables` knows: typing errors. */
  static unknownNames(environment: Readonly<Record<string, string | undefined>>, prefix: string, tables: readonly AnyOptions[]): string[] {
    const known = new Set(tables.flatMap((table) => table.keys.map((key) => table.environmentName(key))));
    return Object.keys(environment).filter((name) => name.startsWith(prefix) && !known.has(name));
  }
}

export function defineOptions<const Table extends OptionTable>(prefix: string, table: Table): Options<Table> {
  return new Options(prefix, table);
}
