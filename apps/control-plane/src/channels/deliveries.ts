import { PlatformError, type Delivery, type DeliveryList, type ListDeliveriesQuery } from "@roost/contract";

import { findChannel } from "../db/channels.ts";
import type { Db } from "../db/database.ts";
import { listDeliveries, retryDelivery } from "../db/deliveries.ts";
import { deliveryTimeoutMs } from "./attempt-times.ts";
import { viewDelivery } from "./channel-view.ts";
import { channelNotFound } from "./channels.ts";

export interface DeliveriesDependencies {
  readonly db: Db;
  /** There is something to send. */
  readonly poke: () => void;
  readonly now?: () => Date;
}

/** What was sent to channels, as their teams see it. */
export class Deliveries {
  readonly #deps: DeliveriesDependencies;

  constructor(deps: DeliveriesDependencies) {
    this.#deps = deps;
  }

  /** Newest event first. */
  async list(teamId: string, channelId: string, query: ListDeliveriesQuery): Promise<DeliveryList> {
    await this.#requireChannel(teamId, channelId);
    const rows = await listDeliveries(this.#deps.db, {
      channelId,
      ...(query.state === undefined ? {} : { state: query.state }),
      ...(query.cursor === undefined ? {} : { before: positionFrom(query.cursor) }),
      limit: query.limit + 1,
    });
    const page = rows.slice(0, query.limit);
    const last = page.at(-1);
    return {
      deliveries: page.map(viewDelivery),
      next_cursor: rows.length > page.length && last !== undefined ? last.position.toString(36) : null,
    };
  }

  /** Lets one be tried again now, and for a day. */
  async retry(teamId: string, channelId: string, id: string): Promise<Delivery> {
    const { db, poke } = this.#deps;
    await this.#requireChannel(teamId, channelId);
    const find = async () => (await listDeliveries(db, { channelId, id, limit: 1 })).map(viewDelivery)[0];
    const before = await find();
    if (before === undefined) throw new PlatformError("delivery_not_found", `channel ${channelId} has no delivery ${id}`);
    const now = this.#deps.now?.() ?? new Date();
    if (!(await retryDelivery(db, id, now, new Date(now.getTime() + deliveryTimeoutMs)))) {
      const why = before.state === "delivered" ? "has arrived" : "is being tried right now";
      throw new PlatformError("delivery_ended", `delivery ${id} ${why}; one can be retried that was given up or waits`);
    }
    poke();
    return (await find()) ?? before;
  }

  async #requireChannel(teamId: string, channelId: string): Promise<void> {
    if ((await findChannel(this.#deps.db, teamId, channelId)) === undefined) throw channelNotFound(channelId);
  }
}

function positionFrom(cursor: string): number {
  if (!/^[0-9a-z]{1,10}$/.test(cursor)) {
    throw new PlatformError("request_invalid", "cursor: this is not a `next_cursor` of an earlier page");
  }
  return Number.parseInt(cursor, 36);
}
