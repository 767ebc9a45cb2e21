import type { CommandContext } from "../context.ts";
import { describeFailure, exitCodes } from "../failure.ts";
import { withProgress } from "../output/progress.ts";

/** Deletes what has these names, each by itself, and prints which are gone. Warns of all failures but the first, which it throws. */
export async function removeNamed(
  context: CommandContext,
  names: readonly string[],
  remove: (name: string) => Promise<unknown>,
): Promise<number> {
  const deleted: string[] = [];
  const failures: { readonly name: string; readonly error: unknown }[] = [];
  await withProgress(context, `deleting ${names.join(", ")}`, async () => {
    for (const name of new Set(names)) {
      await remove(name).then(
        () => deleted.push(name),
        (error: unknown) => failures.push({ name, error }),
      );
    }
  });
  if (context.isJson) await context.printJson({ deleted });
  else for (const name of deleted) await context.print(name);
  const [first, ...more] = failures;
  if (first === undefined) return exitCodes.ok;
  for (const { name, error } of more) await context.warn(`${name}: ${describeFailure(error).message}`);
  throw first.error;
}
