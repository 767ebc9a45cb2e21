import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { printable } from "../output/printable.ts";
import { withProgress } from "../output/progress.ts";
import type { Check } from "../platform/checks.ts";

export async function doctor(context: CommandContext): Promise<number> {
  const { examine } = await import("../platform/examine.ts");
  const checks = await withProgress(context, "looking at this machine", async () => examine(context));
  if (context.isJson) await context.printJson(checks);
  else {
    await context.print(formatChecks(context, checks));
    const failed = checks.filter((check) => check.status === "fail").length;
    await context.print(failed === 0 ? "\nThis machine can run sandboxes." : `\n${failed} of ${checks.length} checks failed.`);
  }
  return checks.some((check) => check.status === "fail") ? exitCodes.error : exitCodes.ok;
}

/** One check a line, and what to do about it below: long findings would make columns too wide to read. */
function formatChecks(context: CommandContext, checks: readonly Check[]): string {
  const { colors } = context;
  const paint = { ok: colors.green, warn: colors.yellow, fail: colors.red } as const;
  const nameWidth = Math.max(...checks.map((check) => check.name.length));
  return checks
    .map(({ status, name, detail, fix }) => {
      const line = `${paint[status](status.padEnd(4))}  ${name.padEnd(nameWidth)}  ${printable(detail)}`;
      return fix === undefined ? line : `${line}\n${" ".repeat(nameWidth + 8)}${colors.dim("→")} ${fix}`;
    })
    .join("\n");
}
