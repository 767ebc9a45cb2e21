import { randomUUID } from "node:crypto";

import {
  channelConfigSchemas,
  channelsMax,
  newId,
  PlatformError,
  type Channel,
  type ChannelKind,
  type ChannelSecret,
  type ChannelTest,
  type CreateChannelBody,
  type NewChannel,
  type UpdateChannelBody,
} from "@roost/contract";
import { hour, type Logger, second, type SecretBox } from "@roost/kit";

import type { Caller } from "../accounts/caller.ts";
import type { Audit } from "../audit/audit.ts";
import {
  deleteChannel,
  findChannel,
  insertChannel,
  isNameTaken,
  listChannels,
  lockChannelCount,
  updateChannel,
  type ChannelPatch,
  type ChannelRow,
} from "../db/channels.ts";
import type { Db } from "../db/database.ts";
import { parse } from "../http/validation.ts";
import type { AddressGuard } from "./address-guard.ts";
import { attemptTimeoutMs } from "./attempt-times.ts";
import { newChannelSecret, openSecrets, sealSecrets, type ChannelSecrets } from "./channel-secrets.ts";
import { viewChannel } from "./channel-view.ts";
import { destinationOf, requestOf } from "./messages.ts";
import { send } from "./send.ts";

/** How long messages are signed with a secret that was replaced, in `ms` */
const oldSecretMs = 24 * hour;
/** Time between two tests of a channel in `ms`: they are requests that somebody makes us send */
const testIntervalMs = 2 * second;

export interface ChannelsDependencies {
  readonly db: Db;
  readonly box: SecretBox;
  readonly guard: AddressGuard;
  readonly audit: Audit;
  readonly log: Logger;
  readonly now?: () => Date;
  readonly telegramOrigin?: string | undefined;
}

/** Where a team's events are sent: made, changed, tried. What is sent is the deliverer's (./deliverer.ts). */
export class Channels {
  readonly #deps: ChannelsDependencies;
  readonly #log: Logger;
  /** Channel → when it was tested last */
  readonly #tested = new Map<string, number>();

  constructor(deps: ChannelsDependencies) {
    this.#deps = deps;
    this.#log = deps.log.child({ service: "channels" });
  }

  async create(caller: Caller, body: CreateChannelBody): Promise<NewChannel> {
    const { db, box, audit } = this.#deps;
    const { teamId } = caller;
    if (body.platform_events && !caller.isAdmin) {
      throw new PlatformError("admin_only", "platform_events: only admins of the platform may have the platform's events sent somewhere");
    }
    const secret = newChannelSecret(body.kind);
    const secrets = { config: configFrom(body.kind, body.config), secret, old: null };
    const destination = this.#destinationOf(body.kind, secrets);
    const id = newId("c");
    await db.transaction().execute(async (transaction) => {
      if ((await lockChannelCount(transaction, teamId)) >= channelsMax) {
        throw new PlatformError("channel_limit", `a team can have at most ${channelsMax} channels; delete one first`);
      }
      const isMade = await insertChannel(transaction, {
        id,
        teamId,
        name: body.name,
        kind: body.kind,
        config: sealSecrets(box, id, secrets),
        destination,
        kinds: body.kinds,
        platformEvents: body.platform_events,
        isEnabled: body.is_enabled,
        now: this.#now(),
      });
      if (!isMade) throw nameTaken(body.name);
      await audit.record(transaction, caller, {
        action: "channel.create",
        resource: { kind: "channel", id },
        detail: { name: body.name, kind: body.kind, destination },
      });
    });
    this.#log.info({ channelId: id, teamId, kind: body.kind }, "channel created");
    return { channel: await this.get(teamId, id), secret };
  }

  /** By name. */
  async list(teamId: string): Promise<Channel[]> {
    return (await listChannels(this.#deps.db, teamId)).map(viewChannel);
  }

  async get(teamId: string, id: string): Promise<Channel> {
    const [row] = await listChannels(this.#deps.db, teamId, id);
    if (row === undefined) throw channelNotFound(id);
    return viewChannel(row);
  }

  async update(caller: Caller, id: string, body: UpdateChannelBody): Promise<Channel> {
    const { db, box, audit } = this.#deps;
    const row = await this.#find(caller.teamId, id);
    requireAdminFor(caller, row);
    let patch: ChannelPatch = {
      ...(body.name === undefined ? {} : { name: body.name }),
      ...(body.kinds === undefined ? {} : { kinds: body.kinds }),
      ...(body.is_enabled === undefined ? {} : { isEnabled: body.is_enabled, isFresh: body.is_enabled }),
    };
    if (body.config !== undefined) {
      const config = configFrom(row.kind, body.config);
      const known = this.#open(row);
      // the old configuration may be unreadable: setting it again is what repairs that
      const secrets = { secret: known?.secret ?? newChannelSecret(row.kind), old: known?.old ?? null, config };
      patch = { ...patch, config: sealSecrets(box, id, secrets), destination: this.#destinationOf(row.kind, secrets), isFresh: true };
    }
    await db
      .transaction()
      .execute(async (transaction) => {
        if (!(await updateChannel(transaction, row, patch, this.#now()))) throw channelChanged(id);
        const changed = Object.keys(body).sort().join(", ");
        await audit.record(transaction, caller, {
          action: "channel.update",
          resource: { kind: "channel", id },
          detail: { name: row.name, changed },
        });
      })
      .catch((error: unknown) => {
        throw isNameTaken(error) ? nameTaken(body.name ?? "") : error;
      });
    return this.get(caller.teamId, id);
  }

  async delete(caller: Caller, id: string): Promise<void> {
    const { db, audit } = this.#deps;
    await db.transaction().execute(async (transaction) => {
      const row = await deleteChannel(transaction, caller.teamId, id);
      if (row === undefined) throw channelNotFound(id);
      await audit.record(transaction, caller, { action: "channel.delete", resource: { kind: "channel", id }, detail: { name: row.name } });
    });
    this.#tested.delete(id);
    this.#log.info({ channelId: id, teamId: caller.teamId }, "channel deleted");
  }

  /** A new secret; messages are signed with the old one, too, for a day. */
  async rotate(caller: Caller, id: string): Promise<ChannelSecret> {
    const { db, box, audit } = this.#deps;
    const row = await this.#find(caller.teamId, id);
    requireAdminFor(caller, row);
    const secret = newChannelSecret(row.kind);
    const known = this.#open(row);
    if (secret === null) {
      throw new PlatformError("request_invalid", `channel ${id} is of kind ${row.kind}; only webhooks have a secret`);
    }
    if (known === undefined) throw unreadable(id);
    const now = this.#now();
    const until = new Date(now.getTime() + oldSecretMs);
    const old = known.secret === null ? null : { secret: known.secret, untilMs: until.getTime() };
    await db.transaction().execute(async (transaction) => {
      const config = sealSecrets(box, id, { ...known, secret, old });
      if (!(await updateChannel(transaction, row, { config }, now))) throw channelChanged(id);
      await audit.record(transaction, caller, { action: "channel.rotate", resource: { kind: "channel", id }, detail: { name: row.name } });
    });
    return { secret, old_secret_until: until.toISOString() };
  }

  /** Sends a message now, the way events are sent; tells of the answer nothing but its status. */
  async test(caller: Caller, id: string, signal: AbortSignal): Promise<ChannelTest> {
    const row = await this.#find(caller.teamId, id);
    this.#countTest(id);
    const secrets = this.#open(row);
    if (secrets === undefined) throw unreadable(id);
    const now = this.#now();
    const text = `a test of the channel ${row.name}`;
    const message = { id: randomUUID(), type: "channel.test", time: now, text, data: { channel_id: id, message: text } };
    const request = requestOf({ kind: row.kind, secrets, telegramOrigin: this.#deps.telegramOrigin }, message, now);
    const outcome = await send(this.#deps.guard, request, attemptTimeoutMs, signal);
    await this.#deps.audit.record(this.#deps.db, caller, {
      action: "channel.test",
      resource: { kind: "channel", id },
      status: outcome.isTaken ? "success" : "failure",
      detail: { name: row.name },
    });
    return { delivered: outcome.isTaken, status: outcome.status, error: outcome.isTaken ? null : outcome.error };
  }

  #countTest(id: string): void {
    const now = this.#now().getTime();
    for (const [other, time] of this.#tested) if (now - time >= testIntervalMs) this.#tested.delete(other);
    if (this.#tested.has(id)) {
      const retryAfterSec = testIntervalMs / second;
      throw new PlatformError("rate_limited", `channel ${id} was tested a moment ago; wait ${retryAfterSec} s`, { retryAfterSec });
    }
    this.#tested.set(id, now);
  }

  async #find(teamId: string, id: string): Promise<ChannelRow> {
    const row = await findChannel(this.#deps.db, teamId, id);
    if (row === undefined) throw channelNotFound(id);
    return row;
  }

  /** Undefined when it cannot be read: it was sealed with another key. */
  #open(row: ChannelRow): ChannelSecrets | undefined {
    try {
      return openSecrets(this.#deps.box, row.id, row.config);
    } catch (error) {
      this.#log.error({ err: error, channelId: row.id }, "what is kept of a channel cannot be read; was the secret key changed?");
      return undefined;
    }
  }

  #destinationOf(kind: ChannelKind, secrets: ChannelSecrets): string {
    const url = destinationOf({ kind, secrets });
    this.#deps.guard.requireUrl(url);
    return url.origin;
  }

  #now(): Date {
    return this.#deps.now?.() ?? new Date();
  }
}

function configFrom(kind: ChannelKind, config: Readonly<Record<string, string>>): Record<string, string> {
  return parse(channelConfigSchemas[kind], config, "config");
}

/** Where the platform's events go is for its admins to say, not for everybody in their team. */
function requireAdminFor(caller: Caller, row: ChannelRow): void {
  if (!row.platform_events || caller.isAdmin) return;
  throw new PlatformError("admin_only", `channel ${row.id} has the platform's events: only admins of the platform may change it`);
}

export function channelNotFound(id: string): PlatformError {
  return new PlatformError("channel_not_found", `there is no channel ${id}`);
}

function channelChanged(id: string): PlatformError {
  return new PlatformError("channel_changed", `channel ${id} was changed by somebody else meanwhile; try again`);
}

function nameTaken(name: string): PlatformError {
  return new PlatformError("channel_exists", `name: the team has a channel "${name}" already`);
}

function unreadable(id: string): PlatformError {
  return new PlatformError(
    "channel_changed",
    `the configuration of channel ${id} cannot be read any more; set it again with PATCH and \`config\``,
  );
}
