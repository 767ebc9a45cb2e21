import { UsageError } from "../failure.ts";
import type { SandboxFate } from "./end-request.ts";
import type { FateOptions } from "./platform-options.ts";

/** What the settings say becomes of the sandboxes at the end. */
export function fateOf({ stopSandboxes, pauseSandboxes }: FateOptions): SandboxFate {
  if (stopSandboxes && pauseSandboxes) throw new UsageError("--stop-sandboxes and --pause-sandboxes exclude each other");
  return stopSandboxes ? "stop" : pauseSandboxes ? "pause" : "leave";
}
