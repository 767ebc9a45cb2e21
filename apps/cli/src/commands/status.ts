import type { Host } from "@roost/contract";
import { formatBytes, MiB } from "@roost/kit";
import { RoostError } from "@roost/sdk";

import type { CommandContext } from "../context.ts";
import { CliError, exitCodes } from "../failure.ts";
import { formatDuration, formatMemory } from "../output/format.ts";
import { formatFields } from "../output/table.ts";
import { printable } from "../output/printable.ts";
import { hostAgentStatus } from "./host-agent-status.ts";
import { findRunning } from "../platform/endpoint.ts";
import { apiKeyPath, findAccess } from "../settings.ts";

/** Time to wait for the health answer in `ms`. */
const healthTimeoutMs = 5_000;

export async function status(context: CommandContext): Promise<number> {
  const isLocal = context.settings.url === undefined;
  const running = isLocal ? await findRunning(context.settings.dir) : undefined;
  if (isLocal && running === undefined) {
    const ofHostAgent = await hostAgentStatus(context);
    if (ofHostAgent !== undefined) return ofHostAgent;
    if (context.isJson) await context.printJson({ running: false, healthy: false });
    else await context.print(`no platform runs in ${context.settings.dir}; start one with \`roost up --detach\``);
    return exitCodes.error;
  }
  const { url } = running?.endpoint ?? (await findAccess(context.settings));
  const health = await askHealth(url, context.signal);
  const client = await context.client();
  const [hosts, templates] = await Promise.all([
    unlessForbidden(client.hosts.list({ signal: context.signal })),
    unlessForbidden(client.templates.list({ signal: context.signal })),
  ]);
  if (context.isJson) {
    await context.printJson({
      running: true,
      healthy: health.isHealthy,
      url,
      tls_url: running?.endpoint.tlsUrl,
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
        ["tls", running?.endpoint.tlsUrl],
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

/** Not everybody may see all that the platform is; what they may is shown. */
async function unlessForbidden<Item>(asked: Promise<Item[]>): Promise<Item[]> {
  return asked.catch((error: unknown) => {
    if (error instanceof RoostError && error.status === 403) return [];
    throw error;
  });
}

function hostFields({ id, description, load }: Host): [string, string][] {
  if (description === null || load === null) return [["host", `${id}: has not said what it is yet`]];
  return [
    ["host", `${id}: ${description.cpu_count} CPUs, ${formatMemory(description.memory_mb)}, kernel ${description.kernel_version}`],
    ["vmm", `${description.vmm} ${description.vmm_version}, accelerator ${description.accelerator}: ${description.accelerator_reason}`],
    ["sandboxes", `${load.sandbox_count} of at most ${description.sandbox_count_max}`],
    ["free", `${formatMemory(load.memory_free_mb)} of memory for sandboxes, ${formatBytes(load.disk_free_mb * MiB)} of disk`],
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
