import { randomUUID } from "node:crypto";

import { createChannelBodySchema, type EventKind, type NewChannel } from "@roost/contract";
import { SecretBox, silentLogger } from "@roost/kit";

import { systemCaller } from "../accounts/caller.ts";
import { Audit } from "../audit/audit.ts";
import { AddressGuard, type Resolve } from "../channels/address-guard.ts";
import { parseRanges } from "../channels/address-ranges.ts";
import { deliveryTimeoutMs } from "../channels/attempt-times.ts";
import { Channels } from "../channels/channels.ts";
import { Deliverer, type DelivererDependencies } from "../channels/deliverer.ts";
import { Deliveries } from "../channels/deliveries.ts";
import type { Database } from "../db/database.ts";
import { publishEvents } from "../db/event-stream.ts";
import { emit } from "../events/outbox.ts";
import { Receiver } from "./receiver.ts";

/** Channels over a database, with a receiver on loopback, a clock that stands still, and deliverers that do what they are told. */
export class ChannelWorld implements AsyncDisposable {
  readonly database: Database;
  readonly receiver: Receiver;
  readonly box = new SecretBox("0".repeat(64), "channels");
  readonly caller = systemCaller("default");
  readonly channels: Channels;
  readonly deliveries: Deliveries;
  /** Moved by `wait` only */
  timeMs = 1_767_225_600_000;
  readonly #abort = new AbortController();

  private constructor(database: Database, receiver: Receiver) {
    this.database = database;
    this.receiver = receiver;
    const { now, box } = this;
    const guard = this.guard();
    this.channels = new Channels({ db: database.db, box, guard, audit: new Audit(now), log: silentLogger, now });
    this.deliveries = new Deliveries({ db: database.db, poke: () => undefined, now });
  }

  /** On an emptied database. */
  static async start(database: Database): Promise<ChannelWorld> {
    for (const table of ["channel", "event"] as const) await database.db.deleteFrom(table).execute();
    return new ChannelWorld(database, await Receiver.start());
  }

  readonly now = () => new Date(this.timeMs);

  /** Which lets requests get to loopback. */
  guard(resolve?: Resolve): AddressGuard {
    return new AddressGuard(parseRanges("127.0.0.0/8"), resolve);
  }

  /** As of another process, where it has a database of its own. */
  deliverer(database: Database = this.database, more: Partial<DelivererDependencies> = {}): Deliverer {
    const { box, now } = this;
    return new Deliverer({ db: database.db, box, guard: this.guard(), log: silentLogger, now, random: () => 0.5, ...more });
  }

  /** A webhook at the receiver. */
  async webhook(name: string, more: object = {}): Promise<NewChannel> {
    const body = { name, kind: "webhook", config: { url: this.receiver.url(`/${name}`) }, ...more };
    return this.channels.create(this.caller, createChannelBodySchema.parse(body));
  }

  /** An event of a sandbox, published. */
  async happen(sandboxId: string, message: string, kind: EventKind = "sandbox.paused"): Promise<void> {
    const { db } = this.database;
    await emit(db, {
      kind,
      teamId: "default",
      subject: { kind: "sandbox", id: sandboxId },
      actor: this.caller.actor,
      message,
      time: this.now(),
    });
    await publishEvents(db, { now: this.now(), timeExpires: new Date(this.timeMs + deliveryTimeoutMs) });
  }

  wait(ms: number): void {
    this.timeMs += ms;
  }

  /** Lets a deliverer do all that can be done now. */
  async deliver(deliverer: Deliverer): Promise<number> {
    let total = 0;
    for (;;) {
      const count = await deliverer.look(this.#abort.signal);
      await deliverer.settled();
      if (count === 0) return total;
      total += count;
    }
  }

  /** What got to the receiver at a path: messages, in the order in which they came. */
  messagesAt(path: string): string[] {
    return this.receiver.received
      .filter((request) => request.path === path)
      .map(({ body }) => (JSON.parse(body) as { data: { message: string } }).data.message);
  }

  /** Ends a try between its deed and its record: as a process does that is killed there. */
  static async killed(world: ChannelWorld, channelId: string): Promise<void> {
    const { db } = world.database;
    await db
      .updateTable("delivery")
      .set({ lease_token: randomUUID() })
      .where("channel_id", "=", channelId)
      .where("lease_token", "is not", null)
      .execute();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    await this.receiver[Symbol.asyncDispose]();
  }
}
