import { guestAgentPort, type PortAccess } from "@roost/contract";
import { Deferred } from "@roost/kit";
import { RoostError, type SandboxHandle } from "@roost/sdk";

import type { CommandContext } from "../context.ts";
import { exitCodes, UsageError } from "../failure.ts";
import { formatTable } from "../output/table.ts";
import { printable } from "../output/printable.ts";
import { parseLocalEnd } from "../parse/local-end.ts";
import { resolveId } from "../sandbox-reference.ts";
import { LocalForward } from "../transfer/local-forward.ts";

export interface PortOptions {
  readonly access?: PortAccess | "default";
  readonly expires?: number;
  readonly path?: string;
  /** Where to listen; true: on a free port */
  readonly forward?: string | true;
  readonly expose?: boolean;
}

export async function port(context: CommandContext, reference: string, name: string | undefined, options: PortOptions): Promise<number> {
  const client = await context.client();
  const given = ["access", "expires", "path", "forward", "expose"].find((key) => Object.hasOwn(options, key));
  if (name === undefined) {
    if (given !== undefined) throw new UsageError(`--${given} is about one port: say which`);
    return listPorts(context, client.sandbox(await resolveId(client, reference, context.signal)));
  }
  const number = parsePort(name);
  if (options.expose === true && options.forward === undefined) throw new UsageError("--expose goes with --forward");
  const end =
    options.forward === undefined ? undefined : parseLocalEnd(options.forward === true ? "" : options.forward, options.expose === true);
  const sandbox = client.sandbox(await resolveId(client, reference, context.signal));
  if (end !== undefined) return forward(context, sandbox, number, end);
  return showUrl(context, sandbox, number, options);
}

function parsePort(text: string): number {
  const number = /^[1-9]\d{0,4}$/.test(text) ? Number(text) : Number.NaN;
  if (!(number <= 65_535)) throw new UsageError(`${JSON.stringify(text)} is no port: a number from 1 to 65535`);
  if (number === guestAgentPort) throw new UsageError(`${number} is the guest agent's port, which is reached through the API only`);
  return number;
}

async function listPorts(context: CommandContext, sandbox: SandboxHandle): Promise<number> {
  const policy = await sandbox.ports.list({ signal: context.signal });
  if (context.isJson) await context.printJson(policy);
  else {
    const rows = Object.entries(policy.ports).map(([number, access]) => [number, access, policy.url.replace("{port}", number)]);
    await context.print(formatTable(context.colors, ["PORT", "ACCESS", "URL"], [...rows, ["others", policy.access, policy.url]]));
  }
  return exitCodes.ok;
}

/** A URL that whoever it is given to can open: signed, where the port is private. */
async function showUrl(context: CommandContext, sandbox: SandboxHandle, number: number, options: PortOptions): Promise<number> {
  const { signal } = context;
  const { access } = options;
  const shown =
    access === undefined
      ? await sandbox.ports.get(number, { signal })
      : await sandbox.ports.set(number, access === "default" ? null : access, { signal });
  if (shown.access === "public") {
    if (context.isJson) await context.printJson(shown);
    else await context.print(options.path === undefined ? shown.url : new URL(options.path, shown.url).href);
    return exitCodes.ok;
  }
  const { path, expires } = options;
  const signed = await sandbox.ports.sign(number, {
    signal,
    ...(path === undefined ? {} : { path }),
    ...(expires === undefined ? {} : { expires_in_sec: expires }),
  });
  if (context.isJson) await context.printJson({ ...shown, signed_url: signed.url, expires_at: signed.expires_at });
  else {
    await context.print(signed.url);
    await context.note(`private: whoever has this URL may use the port, until ${signed.expires_at}`);
  }
  return exitCodes.ok;
}

/** Until it is interrupted, which is how it is meant to end. */
async function forward(
  context: CommandContext,
  sandbox: SandboxHandle,
  number: number,
  end: { readonly address: string; readonly port: number },
): Promise<number> {
  await sandbox.get({ signal: context.signal }); // a sandbox that is not there is told now, not at the first connection
  const told = new Set<string>();
  const onFailure = (error: unknown) => {
    const message = printable(error instanceof Error ? error.message : String(error));
    const code = error instanceof RoostError ? error.code : "cli_error";
    if (context.isJson) void context.printJson({ type: "failure", code, message }).catch(() => undefined);
    else if (!told.has(message)) void context.warn(message).catch(() => undefined); // once, however often a client tries
    told.add(message);
  };
  const options = { sandbox, port: number, localAddress: end.address, localPort: end.port, onFailure };
  await using forwarding = await LocalForward.start(options);
  const interrupted = new Deferred<void>();
  using _taken = context.interrupts.take(() => interrupted.resolve());
  const { address, port: localPort } = forwarding.address;
  const local = `${address.includes(":") ? `[${address}]` : address}:${localPort}`;
  if (context.isJson) await context.printJson({ type: "listening", sandbox_id: sandbox.id, port: number, address, local_port: localPort });
  else {
    await context.print(`${local} is port ${number} of ${sandbox.id}`);
    await context.note("Ctrl-C ends it");
  }
  await interrupted.promise;
  if (context.isJson) await context.printJson({ type: "end", connections: forwarding.count });
  else await context.note(`\n${forwarding.count} ${forwarding.count === 1 ? "connection was" : "connections were"} carried`);
  return exitCodes.ok;
}
