import type { AnyOptions } from "@roost/kit";
import { Option, type Command } from "commander";

/** Settings that every command has already. */
const commonKeys = new Set(["dir"]);
/** A flag without a value is one whose schema takes a boolean. */
const isSwitch = (schema: { safeParse(value: unknown): { success: boolean } }) =>
  schema.safeParse(true).success && schema.safeParse("true").success && !schema.safeParse("7x").success;

/** A flag for each setting of the tables; the first table with a name has it. Values are checked by the tables later. */
export function withSettings(command: Command, tables: readonly AnyOptions[]): Command {
  const seen = new Set(commonKeys);
  for (const table of tables) {
    for (const key of table.keys) {
      const spec = table.table[key];
      if (spec === undefined || seen.has(key) || spec.secret === true) continue; // a secret flag would show in `ps`
      seen.add(key);
      const flag = table.flagName(key);
      const option = new Option(isSwitch(spec.schema) ? flag : `${flag} <value>`, `${spec.desc} (${table.environmentName(key)})`);
      command.addOption(option.helpGroup("Settings:"));
    }
  }
  return command;
}
