import type { Host } from "@roost/contract";
import { formatBytes } from "@roost/kit";
import { RoostError } from "@roost/sdk";

import type { CommandContext } from "../context.ts";
import { CliError, exitCodes } from "../failure.ts";
import { formatDuration, formatMemory } from "../output/format.ts";
import { formatFields } from "../output/table.ts";
import { printable } from "../output/printable.ts";
import { findRunning } from "../platform/endpoint.ts";
import { apiKeyPath, findAccess } from "../settings.ts";

/** Time to wait for the health answer in `ms`. */
const healthTimeoutMs = 5_000;

export async function status(context: CommandContext): Promise<number> {
  const isLocal = context.settings.url === undefined;
  const running = isLocal ? await findRunning(context.settings.dir) : undefined;
  if (isLocal && running === undefined) {
    if (context.isJson) await context.printJson({ running: false, healthy: false });
    else await context.print(`no platform runs in ${context.settings.dir}; start one with \`roost up --detach\``);
    return exitCodes.error;
  }
  const { url } = running?.endpoint ?? (await findAccess(context.settings));
  const health = await askHealth(url, context.signal);
  const client = await context.client();
  const [hosts, templates] = await Promise.all([
    client.hosts({ signal: context.signal }),
    client.templates.list({ signal: context.signal }),
  ]);
  if (context.isJson) {
    await context.printJson({
      running: true,
      healthy: health.isHealthy,
      url,
      pid: running?.endpoint.pid,
      version: running?.endpoint.version,
      hosts,
      templates,
    });
  } else {
    await context.print(
      formatFields(context.colors, [
        ["platform", health.isHealthy ? context.colors.green("healthy") : context.colors.red(`not healthy: ${printable(health.detail)}`)],
        ["url", url],
        ["api key", isLocal ? `in ${apiKeyPath(context.settings.dir)}` : undefined],
        ["process", running === undefined ? undefined : `pid ${running.endpoint.pid}, version ${running.endpoint.version}`],
        ["up for", running === undefined ? undefined : formatDuration((Date.now() - Date.parse(running.endpoint.startedAt)) / 1000)],
        ["templates", templates.map((template) => template.name).join(", ") || "none"],
        ...hosts.flatMap((host) => hostFields(host)),
      ]),
    );
  }
  return health.isHealthy ? exitCodes.ok : exitCodes.error;
}

function hostFields(host: Host): [string, string][] {
  return [
    ["host", `${host.id}: ${host.cpu_count} CPUs, ${formatMemory(host.memory_mb)}, kernel ${host.kernel_version}`],
    ["vmm", `${host.vmm} ${host.vmm_version}, accelerator ${host.accelerator}: ${host.accelerator_reason}`],
    ["sandboxes", `${host.sandbox_count} of at most ${host.sandbox_count_max}`],
    ["free", `${formatMemory(host.memory_free_mb)} of memory for sandboxes, ${formatBytes(host.disk_free_bytes)} of disk`],
  ];
}

async function askHealth(url: string, signal: AbortSignal): Promise<{ isHealthy: boolean; detail: string }> {
  try {
    const answer = await fetch(new URL("/health", url), { signal: AbortSignal.any([signal, AbortSignal.timeout(healthTimeoutMs)]) });
    return { isHealthy: answer.ok, detail: (await answer.text()).slice(0, 500) };
  } catch (error) {
    if (signal.aborted) throw error;
    const hint = "its log may tell why: logs/roost.log in the state folder";
    throw new CliError(`the platform at ${url} does not answer`, { hint, cause: new RoostError("connection_failed", String(error)) });
  }
}
