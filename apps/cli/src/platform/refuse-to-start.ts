import { CliError } from "../failure.ts";
import { printable } from "../output/printable.ts";
import type { Check } from "./checks.ts";

/** Nothing is made before all of this holds. */
export function refuseToStart(checks: readonly Check[]): void {
  const failed = checks.filter((check) => check.status === "fail");
  const [first] = failed;
  if (first === undefined) return;
  const lines = failed.map((check) => `${check.name}: ${printable(check.detail)}${check.fix === undefined ? "" : `\n    → ${check.fix}`}`);
  throw new CliError(`this machine is not ready:\n  ${lines.join("\n  ")}`, { hint: "`roost doctor` checks everything" });
}
