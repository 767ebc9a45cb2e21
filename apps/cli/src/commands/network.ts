import type { SandboxEgress } from "@roost/contract";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { formatFields } from "../output/table.ts";
import { networkInput, type NetworkOptions } from "../parse/network.ts";
import { resolveId } from "../sandbox-reference.ts";

/** Shows what a sandbox may reach and use; with options, replaces it first. `open`: by what every sandbox has. */
export async function network(
  context: CommandContext,
  reference: string,
  options: NetworkOptions & { readonly open?: boolean },
): Promise<number> {
  const asked = await networkInput(options, context.io);
  const client = await context.client();
  const sandbox = client.sandbox(await resolveId(client, reference, context.signal));
  const { signal } = context;
  const replaced = asked ?? (options.open === true ? {} : undefined);
  const policy = replaced === undefined ? await sandbox.network({ signal }) : await sandbox.setNetwork(replaced, { signal });
  if (context.isJson) await context.printJson(policy);
  else await context.print(formatPolicy(context, policy));
  return exitCodes.ok;
}

function formatPolicy(context: CommandContext, policy: SandboxEgress): string {
  const { limits, egress_proxy: proxy } = policy;
  const listed = (entries: readonly string[]) => (entries.length === 0 ? undefined : entries.join(", "));
  const limited = (limit: number | null, unit: string) => (limit === null ? undefined : `${limit} ${unit}`);
  return formatFields(context.colors, [
    ["internet", policy.allow_internet ? "yes" : "no"],
    ["allowed", listed(policy.allow_out)],
    ["denied", listed(policy.deny_out)],
    [
      "egress proxy",
      proxy === null ? undefined : `${proxy.protocol} ${proxy.username === undefined ? "" : `${proxy.username}@`}${proxy.address}`,
    ],
    ["headers set", listed(Object.entries(policy.rules).map(([domain, { headers }]) => `${domain} (${Object.keys(headers).join(", ")})`))],
    ["sends", limited(limits.out_mbit_per_sec, "Mbit/s")],
    ["receives", limited(limits.in_mbit_per_sec, "Mbit/s")],
    ["connections", limited(limits.connections, "at once")],
    ["new connections", limited(limits.connections_per_sec, "per second")],
  ]);
}
