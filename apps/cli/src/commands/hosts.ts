import type { DrainMode, Host, HostDeletion, UpdateHostBody } from "@roost/contract";
import { sleep } from "@roost/kit";
import { RoostError, type RoostClient } from "@roost/sdk";

import type { Colors, CommandContext } from "../context.ts";
import { CliError, exitCodes } from "../failure.ts";
import { formatAgo, formatMemory } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { withProgress } from "../output/progress.ts";
import { formatFields, formatTable } from "../output/table.ts";

/** Time between two looks at a drain in `ms` */
const drainLookMs = 1_000;
/** Sandboxes and templates that a preview names for people; JSON has all */
const namedMax = 20;

export async function listHosts(context: CommandContext, options: { readonly quiet?: boolean }): Promise<number> {
  const hosts = await (await context.client()).hosts.list({ signal: context.signal });
  if (options.quiet === true) for (const { id } of hosts) await context.print(id);
  else if (context.isJson) await context.printJson(hosts);
  else if (hosts.length === 0) await context.note("no hosts; `roost host add NAME` announces one");
  else await context.print(formatHosts(context, hosts));
  return exitCodes.ok;
}

function formatHosts(context: CommandContext, hosts: readonly Host[]): string {
  const rows = hosts.map((host) => [
    host.id,
    printable(host.name),
    formatHostState(host, context.colors),
    host.load === null || host.description === null ? "" : `${host.load.sandbox_count}/${host.description.sandbox_count_max}`,
    host.load === null ? "" : formatMemory(host.load.memory_free_mb),
    host.description === null ? "" : printable(host.description.accelerator),
    host.tags.join(","),
    host.address === null ? "" : printable(host.address),
    host.time_last_seen === null ? "never" : formatAgo(host.time_last_seen),
  ]);
  return formatTable(context.colors, ["ID", "NAME", "STATE", "SANDBOXES", "FREE", "ACCEL", "TAGS", "ADDRESS", "SEEN"], rows);
}

function formatHostState(host: Host, colors: Colors): string {
  if (host.state === "pending") return colors.dim("pending");
  const state = host.drain?.time_done == null ? host.state : "drained";
  if (!host.is_reachable) return colors.red(state === "ready" ? "unreachable" : `${state}, unreachable`);
  if (host.health?.is_healthy === false) return colors.red(state === "ready" ? "unwell" : `${state}, unwell`);
  return state === "ready" ? colors.green(state) : colors.yellow(state);
}

export async function getHost(context: CommandContext, reference: string): Promise<number> {
  const client = await context.client();
  await showHost(context, await findHost(client, reference, context.signal));
  return exitCodes.ok;
}

async function showHost(context: CommandContext, host: Host): Promise<void> {
  if (context.isJson) await context.printJson(host);
  else await context.print(formatFields(context.colors, fieldsOf(host, context.colors)));
}

function fieldsOf(host: Host, colors: Colors): [string, string | undefined][] {
  const { description, load, health, drain } = host;
  return [
    ["id", host.id],
    ["name", printable(host.name)],
    ["state", formatHostState(host, colors)],
    ["seen", host.time_last_seen === null ? "never" : formatAgo(host.time_last_seen)],
    ["address", host.address === null ? undefined : printable(host.address)],
    ["team", host.team_id ?? undefined],
    ["tags", host.tags.length === 0 ? undefined : host.tags.join(", ")],
    [
      "drain",
      drain === null ? undefined : `${drain.mode}, since ${formatAgo(drain.time_started)}${drain.time_done === null ? "" : ", done"}`,
    ],
    ["problem", drain?.problem == null ? undefined : printable(drain.problem)],
    [
      "machine",
      description === null
        ? undefined
        : `${description.cpu_count} CPUs (${printable(description.arch)}), ${formatMemory(description.memory_mb)} for sandboxes`,
    ],
    [
      "vmm",
      description === null
        ? undefined
        : printable(
            `${description.vmm} ${description.vmm_version}, accelerator ${description.accelerator}: ${description.accelerator_reason}`,
          ),
    ],
    ["agent", description === null ? undefined : printable(description.agent_version)],
    ["sandboxes", description === null || load === null ? undefined : `${load.sandbox_count} of at most ${description.sandbox_count_max}`],
    [
      "free",
      load === null
        ? undefined
        : `${formatMemory(load.memory_free_mb)} of memory for sandboxes, ${formatMemory(load.disk_free_mb)} of disk`,
    ],
    ["load", load === null ? undefined : load.cpu_load.toFixed(2)],
    ["health", health === null ? undefined : health.is_healthy ? "well" : health.problems.map(printable).join("\n")],
    ["clock", host.clock_offset_ms === null ? undefined : `${host.clock_offset_ms} ms off`],
    ["certificate", host.certificate === null ? undefined : `${host.certificate.fingerprint}, until ${host.certificate.time_expires}`],
    ["announced", formatAgo(host.time_created)],
  ];
}

export async function addHost(
  context: CommandContext,
  name: string,
  options: { readonly tags?: string; readonly team?: string },
): Promise<number> {
  const client = await context.client();
  const tags = options.tags?.split(",").map((tag) => tag.trim());
  const body = { name, ...(tags === undefined ? {} : { tags }), ...(options.team === undefined ? {} : { team_id: options.team }) };
  const created = await client.hosts.create(body, { signal: context.signal });
  if (context.isJson) await context.printJson(created);
  else {
    await context.print(created.registration.token);
    await context.note(
      `this is the token of host ${created.host.id}; it works once, until ${created.registration.time_expires}, and is shown only now`,
    );
  }
  return exitCodes.ok;
}

export async function createHostToken(context: CommandContext, reference: string): Promise<number> {
  const client = await context.client();
  const { id } = await findHost(client, reference, context.signal);
  const token = await client.hosts.createToken(id, { signal: context.signal });
  if (context.isJson) await context.printJson(token);
  else {
    await context.print(token.token);
    await context.note(`it works once, until ${token.time_expires}, and is shown only now; earlier ones do not work any more`);
  }
  return exitCodes.ok;
}

export async function tagHost(context: CommandContext, reference: string, tags: readonly string[]): Promise<number> {
  const client = await context.client();
  const { id } = await findHost(client, reference, context.signal);
  const host = await client.hosts.update(id, { tags: [...tags] }, { signal: context.signal });
  if (context.isJson) await context.printJson(host);
  else await context.print(host.tags.join(" "));
  return exitCodes.ok;
}

export async function updateHost(context: CommandContext, reference: string, changes: UpdateHostBody): Promise<number> {
  const client = await context.client();
  const { id } = await findHost(client, reference, context.signal);
  const host = await client.hosts.update(id, changes, { signal: context.signal });
  if (context.isJson) await context.printJson(host);
  else await context.print(host.id);
  return exitCodes.ok;
}

export async function moveHost(context: CommandContext, reference: string, move: "cordon" | "uncordon"): Promise<number> {
  const client = await context.client();
  const { id } = await findHost(client, reference, context.signal);
  const host = await client.hosts[move](id, { signal: context.signal });
  if (context.isJson) await context.printJson(host);
  else await context.print(host.id);
  return exitCodes.ok;
}

export async function drainHost(
  context: CommandContext,
  reference: string,
  options: { readonly mode: DrainMode; readonly wait: boolean },
): Promise<number> {
  const client = await context.client();
  const { id } = await findHost(client, reference, context.signal);
  let host = await client.hosts.drain(id, { mode: options.mode, signal: context.signal });
  if (options.wait) {
    let problem: string | null = null;
    await withProgress(context, `draining ${id}`, async () => {
      while (host.drain !== null && host.drain.time_done === null) {
        if (host.drain.problem !== null && host.drain.problem !== problem) await context.note(printable(host.drain.problem));
        problem = host.drain.problem;
        await sleep(drainLookMs, context.signal);
        host = await client.hosts.get(id, { signal: context.signal });
      }
    });
    if (host.drain === null)
      throw new CliError(`host ${id} is not being drained any more: it is ${host.state}`, { hint: "somebody else ended the drain" });
  }
  if (context.isJson) await context.printJson(host);
  else {
    await context.print(host.id);
    if (options.mode === "move" && options.wait) await noteWhatStays(context, client, host.id);
  }
  return exitCodes.ok;
}

/** Templates and snapshots are not moved. */
async function noteWhatStays(context: CommandContext, client: RoostClient, id: string): Promise<void> {
  const { templates, template_count: count } = await client.hosts.previewDeletion(id, { signal: context.signal });
  if (count === 0) return;
  const named = [...templates.slice(0, namedMax).map(printable), ...more(count, "templates")].join(", ");
  await context.note(`no other host has these templates and snapshots, which deleting it would lose: ${named}`);
}

export async function removeHost(
  context: CommandContext,
  reference: string,
  options: { readonly preview?: boolean; readonly force?: boolean },
): Promise<number> {
  const client = await context.client();
  const { id } = await findHost(client, reference, context.signal);
  if (options.preview === true) {
    const lost = await client.hosts.previewDeletion(id, { signal: context.signal });
    if (context.isJson) await context.printJson(lost);
    else await context.print(formatDeletion(lost));
    return exitCodes.ok;
  }
  await client.hosts.delete(id, { force: options.force === true, signal: context.signal });
  if (context.isJson) await context.printJson({ deleted: [id] });
  else await context.print(id);
  return exitCodes.ok;
}

function formatDeletion(lost: HostDeletion): string {
  if (lost.sandbox_count === 0 && lost.template_count === 0) return "nothing would be lost";
  const lines = [
    ...lost.sandboxes.slice(0, namedMax).map((sandbox) => `sandbox ${sandbox.id} (${sandbox.state}, team ${sandbox.team_id})`),
    ...more(lost.sandbox_count, "sandboxes"),
    ...lost.templates.slice(0, namedMax).map((name) => `template ${printable(name)}`),
    ...more(lost.template_count, "templates"),
  ];
  return lines.join("\n");
}

function more(count: number, what: string): string[] {
  return count > namedMax ? [`and ${count - namedMax} more ${what}`] : [];
}

/** By id, name, or a beginning of an id that only one has. */
async function findHost(client: RoostClient, reference: string, signal: AbortSignal): Promise<Host> {
  const hosts = await client.hosts.list({ signal });
  const exact = hosts.find((host) => host.id === reference) ?? hosts.find((host) => host.name.toLowerCase() === reference.toLowerCase());
  if (exact !== undefined) return exact;
  const beginning = hosts.filter((host) => host.id.startsWith(reference));
  const [only] = beginning;
  if (only !== undefined && beginning.length === 1) return only;
  const hint = "`roost host ls` lists them";
  if (beginning.length > 1)
    throw new CliError(`${JSON.stringify(reference)} may be ${beginning.length} hosts; write more of the id`, { hint });
  throw new CliError(`there is no host ${JSON.stringify(reference)}`, { hint, cause: new RoostError("host_not_found", reference) });
}
