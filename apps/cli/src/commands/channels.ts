import type { Channel, ChannelKind, CreateChannelInput, Delivery, DeliveryState } from "@roost/contract";
import { RoostError, type RoostClient } from "@roost/sdk";

import type { CommandContext } from "../context.ts";
import { CliError, exitCodes } from "../failure.ts";
import { formatAgo } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { formatTable } from "../output/table.ts";
import { removeNamed } from "./remove-named.ts";

/** Deliveries that one request asks for at most */
const pageSize = 1000;

export interface AddChannelOptions {
  readonly kind: string;
  readonly config?: Readonly<Record<string, string>>;
  readonly events?: readonly string[];
  readonly platformEvents?: boolean;
}

/** Prints the secret alone, so that it can go straight to where it is kept; of a channel without one, its id. */
export async function addChannel(
  context: CommandContext,
  name: string,
  url: string | undefined,
  options: AddChannelOptions,
): Promise<number> {
  const client = await context.client();
  const body = {
    name,
    kind: options.kind as ChannelKind, // the command line takes no others
    config: { ...(url === undefined ? {} : { url }), ...options.config },
    kinds: (options.events ?? []) as CreateChannelInput["kinds"], // the platform says which there are
    platform_events: options.platformEvents === true,
  };
  const made = await client.channels.create(body, { signal: context.signal });
  if (context.isJson) await context.printJson(made);
  else {
    await context.print(made.secret ?? made.channel.id);
    const what = made.secret === null ? "" : "; its secret is shown only now";
    await context.note(`this is channel ${made.channel.id} to ${made.channel.destination}${what}. Try: roost channel test ${name}`);
  }
  return exitCodes.ok;
}

export async function listChannels(context: CommandContext, options: { readonly quiet?: boolean }): Promise<number> {
  const client = await context.client();
  const channels = await client.channels.list({ signal: context.signal });
  if (options.quiet === true) for (const { name } of channels) await context.print(name);
  else if (context.isJson) await context.printJson(channels);
  else if (channels.length === 0) await context.note("no channels; `roost channel add NAME URL` makes one");
  else await context.print(formatChannels(context, channels));
  return exitCodes.ok;
}

function formatChannels(context: CommandContext, channels: readonly Channel[]): string {
  const rows = channels.map((channel) => [
    channel.name,
    channel.kind,
    channel.destination,
    channel.kinds.length === 0 ? "all" : channel.kinds.join(" "),
    stateOf(channel),
    `${channel.pending}`,
    `${channel.failed}`,
  ]);
  return formatTable(context.colors, ["NAME", "KIND", "TO", "EVENTS", "STATE", "PENDING", "FAILED"], rows);
}

function stateOf(channel: Channel): string {
  if (!channel.is_enabled) return "off";
  return channel.failing_since === null ? "on" : `failing since ${formatAgo(channel.failing_since)}`;
}

export async function removeChannels(context: CommandContext, references: readonly string[]): Promise<number> {
  const client = await context.client();
  const channels = await client.channels.list({ signal: context.signal });
  return removeNamed(context, references, async (reference) =>
    client.channels.delete(chooseChannel(channels, reference).id, { signal: context.signal }),
  );
}

export async function testChannel(context: CommandContext, reference: string): Promise<number> {
  const client = await context.client();
  const channel = await findChannel(client, reference, context.signal);
  const outcome = await client.channels.test(channel.id, { signal: context.signal });
  if (context.isJson) await context.printJson(outcome);
  if (!outcome.delivered) {
    throw new CliError(`channel ${channel.name} did not take it: ${outcome.error ?? "it does not say why"}`);
  }
  if (!context.isJson) await context.print(`${channel.name} took it, with status ${outcome.status}`);
  return exitCodes.ok;
}

export async function rotateChannel(context: CommandContext, reference: string): Promise<number> {
  const client = await context.client();
  const channel = await findChannel(client, reference, context.signal);
  const rotated = await client.channels.rotateSecret(channel.id, { signal: context.signal });
  if (context.isJson) await context.printJson(rotated);
  else {
    await context.print(rotated.secret);
    await context.note(`it is shown only now; the old one is good, too, until ${rotated.old_secret_until}`);
  }
  return exitCodes.ok;
}

export interface ListDeliveriesOptions {
  readonly state?: string;
  readonly limit: number;
}

export async function listDeliveries(context: CommandContext, reference: string, options: ListDeliveriesOptions): Promise<number> {
  const client = await context.client();
  const { id } = await findChannel(client, reference, context.signal);
  const found: Delivery[] = [];
  if (options.limit > 0) {
    const state = options.state as DeliveryState | undefined; // the command line takes no others
    for await (const delivery of client.channels.deliveries(id, {
      state,
      limit: Math.min(options.limit, pageSize),
      signal: context.signal,
    })) {
      if (found.push(delivery) >= options.limit) break;
    }
  }
  if (context.isJson) await context.printJson(found);
  else if (found.length === 0) await context.note("nothing was sent yet");
  else await context.print(formatDeliveries(context, found));
  return exitCodes.ok;
}

function formatDeliveries(context: CommandContext, deliveries: readonly Delivery[]): string {
  const rows = deliveries.map((delivery) => [
    delivery.id,
    delivery.event_kind,
    delivery.state,
    `${delivery.attempts}`,
    formatAgo(delivery.created_at),
    printable(delivery.last_error ?? ""),
  ]);
  return formatTable(context.colors, ["ID", "EVENT", "STATE", "TRIES", "CREATED", "LAST PROBLEM"], rows);
}

export async function retryDeliveries(context: CommandContext, reference: string, ids: readonly string[]): Promise<number> {
  const client = await context.client();
  const channel = await findChannel(client, reference, context.signal);
  const retried: Delivery[] = [];
  for (const id of new Set(ids)) retried.push(await client.channels.retry(channel.id, id, { signal: context.signal }));
  if (context.isJson) await context.printJson(retried);
  else for (const { id } of retried) await context.print(id);
  return exitCodes.ok;
}

async function findChannel(client: RoostClient, reference: string, signal: AbortSignal): Promise<Channel> {
  return chooseChannel(await client.channels.list({ signal }), reference);
}

/** By name, which is its team's only one, or id. */
function chooseChannel(channels: readonly Channel[], reference: string): Channel {
  const found = channels.find(({ name }) => name === reference) ?? channels.find(({ id }) => id === reference);
  if (found === undefined) throw new RoostError("channel_not_found", `there is no channel ${JSON.stringify(reference)}`);
  return found;
}
