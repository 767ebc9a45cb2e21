import type { Sandbox } from "@roost/contract";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { formatAgo, formatDuration, formatMemory, formatState, formatTimeout } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { formatFields } from "../output/table.ts";
import { resolveId } from "../sandbox-reference.ts";
import { formatLabels } from "./list.ts";

export async function get(context: CommandContext, reference: string): Promise<number> {
  const client = await context.client();
  const sandbox = await client.sandboxes.get(await resolveId(client, reference, context.signal), { signal: context.signal });
  if (context.isJson) await context.printJson(sandbox);
  else await context.print(formatSandbox(context, sandbox));
  return exitCodes.ok;
}

function formatSandbox(context: CommandContext, sandbox: Sandbox): string {
  const { vm_exit: vmExit } = sandbox;
  return formatFields(context.colors, [
    ["id", sandbox.id],
    ["state", formatState(sandbox.state, context.colors)],
    ["host", sandbox.host_state === "unreachable" ? context.colors.red("unreachable; the state is what was true before") : undefined],
    ["failure", sandbox.failure_reason === null ? undefined : printable(sandbox.failure_reason)],
    ["notice", sandbox.notice === null ? undefined : printable(sandbox.notice)],
    ["ended by", sandbox.stop_reason ?? undefined],
    ["template", sandbox.template],
    ["size", `${sandbox.vcpus} vCPU, ${formatMemory(sandbox.memory_mb)} memory, ${formatMemory(sandbox.disk_mb)} disk`],
    ["created", withAgo(sandbox.created_at)],
    ["started", withAgo(sandbox.started_at)],
    ["start path", sandbox.start_path ?? undefined],
    ["generation", formatGeneration(sandbox)],
    ["paused", withAgo(sandbox.paused_at)],
    ["last active", withAgo(sandbox.last_active_at)],
    ["stopped", withAgo(sandbox.stopped_at)],
    ["idle timeout", formatTimeout(sandbox.timeout_sec)],
    ["time is up", formatExpiry(sandbox)],
    ["checkpoints", sandbox.checkpoint_interval_sec === 0 ? undefined : `every ${formatDuration(sandbox.checkpoint_interval_sec)}`],
    ["auto-resume", sandbox.auto_resume ? "yes" : undefined],
    ["metadata", Object.keys(sandbox.metadata).length === 0 ? undefined : printable(formatLabels(sandbox.metadata))],
    [
      "versions",
      printable(
        Object.entries(sandbox.versions)
          .map((entry) => entry.join(" "))
          .join(", "),
      ) || undefined,
    ],
    ["VM ended", vmExit === null ? undefined : vmExit.signal === null ? `exit code ${vmExit.exit_code}` : `signal ${vmExit.signal}`],
    ["console", vmExit === null || vmExit.console_tail.length === 0 ? undefined : vmExit.console_tail.map(printable).join("\n")],
  ]);
}

function formatGeneration({ current_generation: number, has_memory: hasMemory }: Sandbox): string | undefined {
  return number === null ? undefined : `${number} (${hasMemory ? "memory and disk" : "disk only"})`;
}

function formatExpiry({ expires_at: instant, expiry_action: action }: Sandbox): string | undefined {
  return instant === null ? undefined : `${instant}, then it is ${action === "pause" ? "paused" : "deleted"}`;
}

function withAgo(instant: string | null): string | undefined {
  return instant === null ? undefined : `${formatAgo(instant)} (${instant})`;
}
