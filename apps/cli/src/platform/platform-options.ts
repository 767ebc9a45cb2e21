import { defineOptions, Options, OptionError, type AnyOptions, type OptionValues } from "@roost/kit";
import { z } from "zod";

/** Settings of the processes themselves; those of control plane and host agent are in their own tables. */
export const logOptions = defineOptions("ROOST_", {
  logLevel: { schema: z.enum(["debug", "info", "warn", "error"]).default("info"), desc: "Least important level that is logged" },
  logFile: {
    schema: z.string().startsWith("/").optional(),
    desc: "Write the log there as JSON lines, rotated, instead of to standard output",
  },
});
export type LogOptions = OptionValues<typeof logOptions.table>;

/** Settings of the processes that hold sandboxes. */
export const fateOptions = defineOptions("ROOST_", {
  stopSandboxes: {
    schema: z.union([z.boolean(), z.stringbool()]).default(false),
    desc: "End the sandboxes that run when the platform ends; otherwise they go on and are found again by the next one",
  },
  pauseSandboxes: {
    schema: z.union([z.boolean(), z.stringbool()]).default(false),
    desc: "Pause the sandboxes when the platform ends, so that they are found again also after a restart of the machine",
  },
});
export type FateOptions = OptionValues<typeof fateOptions.table>;

/** An unknown name is a typing error that would otherwise silently do nothing. */
export function refuseUnknownNames(environment: Readonly<Record<string, string | undefined>>, tables: readonly AnyOptions[]): void {
  const unknown = Options.unknownNames(environment, "ROOST_", tables);
  if (unknown.length === 0) return;
  const known = [...new Set(tables.flatMap((table) => table.keys.map((key) => table.environmentName(key))))];
  const lines = unknown.map((name) => {
    const near = nearest(name, known);
    return `${name} is not a setting${near === undefined ? "" : `; did you mean ${near}?`}`;
  });
  throw new OptionError(lines.join("\n"));
}

/** The known name that differs least, when it does not differ in more than a third of its letters. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  let best: { readonly name: string; readonly distance: number } | undefined;
  for (const candidate of known) {
    const distance = editDistance(name, candidate);
    if (best === undefined || distance < best.distance) best = { name: candidate, distance };
  }
  return best !== undefined && best.distance <= Math.max(2, Math.trunc(name.length / 3)) ? best.name : undefined;
}

/** Insertions, removals and replacements that make one text the other. */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 1; i <= from.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= to.length; j += 1) {
      const replace = (row[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1);
      next.push(Math.min(replace, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[to.length] ?? 0;
}
