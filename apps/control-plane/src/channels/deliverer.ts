import { hour, type Logger, minute, type SecretBox, ServiceLoop } from "@roost/kit";

import { noteFailure, noteSuccess } from "../db/channels.ts";
import type { Db } from "../db/database.ts";
import {
  claimDeliveries,
  endAttempt,
  forgetDeliveries,
  giveUpDeliveries,
  hasDueDeliveries,
  releaseDelivery,
  type ClaimedDelivery,
} from "../db/deliveries.ts";
import { viewEvent } from "../events/event-view.ts";
import type { AddressGuard } from "./address-guard.ts";
import { attemptTimeoutMs, deliveryTimeoutMs, leaseMs, restAfter, waitAfter } from "./attempt-times.ts";
import { openSecrets } from "./channel-secrets.ts";
import { requestOf } from "./messages.ts";
import { send, type SendOutcome } from "./send.ts";

/** Time between two looks for deliveries in `ms`, when nobody pokes: this finds those whose wait is over */
const lookIntervalMs = 500;
/** Time between two rounds of giving up and forgetting in `ms` */
const upkeepIntervalMs = 1 * minute;
/** Tries under way in this process: each is a connection and 10 s at most */
const atOnceMax = 64;
/** Tries under way to one channel, from all control planes */
const perChannelMax = 4;
/** Deliveries that may wait for one channel; above, the oldest are given up */
const pendingMax = 20_000;
/** How long what was delivered is listed, and what was given up, in `ms` */
const deliveredKeptMs = 72 * hour;
const failedKeptMs = 14 * 24 * hour;

export interface DelivererDependencies {
  readonly db: Db;
  readonly box: SecretBox;
  readonly guard: AddressGuard;
  readonly log: Logger;
  readonly now?: () => Date;
  readonly random?: () => number;
  readonly timeoutMs?: number;
  readonly telegramOrigin?: string | undefined;
  /** Counts tries, for metrics. */
  readonly onAttempt?: (isTaken: boolean) => void;
}

/**
 * Sends events to channels. What is to be sent is in the table `delivery`, taken on under a lease and tried until it is taken, or its day is over. The record comes after the
 * deed: a crash between the two sends it once more, under the same id, and never not at all.
 */
export class Deliverer {
  readonly #deps: DelivererDependencies;
  readonly #log: Logger;
  readonly #underWay = new Set<Promise<void>>();
  #loop: ServiceLoop | undefined;
  #nextUpkeepMs = 0;

  constructor(deps: DelivererDependencies) {
    this.#deps = deps;
    this.#log = deps.log.child({ service: "deliverer" });
  }

  /** There may be something to send. */
  poke(): void {
    this.#loop?.poke();
  }

  /** Until `signal` aborts; what is under way then is given back. */
  async run(signal: AbortSignal): Promise<void> {
    const loop = new ServiceLoop("deliverer", this.#log, signal);
    this.#loop = loop;
    await loop.every(lookIntervalMs, async () => {
      await this.look(signal);
      await this.#upkeep();
    });
    await Promise.all(this.#underWay);
  }

  /** Begins what can be begun now; answers how many. */
  async look(signal: AbortSignal): Promise<number> {
    const limit = atOnceMax - this.#underWay.size;
    if (limit <= 0) return 0;
    const now = this.#now();
    if (!(await hasDueDeliveries(this.#deps.db, now))) return 0;
    const leaseEnds = new Date(now.getTime() + leaseMs);
    const claimed = await claimDeliveries(this.#deps.db, { now, leaseEnds, limit, perChannel: perChannelMax });
    for (const one of claimed) {
      const trying = this.#try(one, signal).catch((error: unknown) =>
        this.#log.warn({ err: error, deliveryId: one.delivery.id }, "a try was not recorded; it is made again when its lease ends"),
      );
      this.#underWay.add(trying);
      void trying.finally(() => {
        this.#underWay.delete(trying);
        this.poke(); // the next of its sandbox may be waiting for it
      });
    }
    return claimed.length;
  }

  /** Until nothing is under way; for tests. */
  async settled(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.all(this.#underWay);
  }

  async #try(claimed: ClaimedDelivery, signal: AbortSignal): Promise<void> {
    let outcome: SendOutcome;
    try {
      outcome = await this.#send(claimed, signal);
    } catch (error) {
      if (!signal.aborted) throw error;
      await releaseDelivery(this.#deps.db, claimed.delivery);
      return;
    }
    await this.#record(claimed, outcome);
    this.#deps.onAttempt?.(outcome.isTaken);
  }

  async #send({ delivery, channel, event }: ClaimedDelivery, signal: AbortSignal): Promise<SendOutcome> {
    const { box, guard, telegramOrigin, timeoutMs = attemptTimeoutMs } = this.#deps;
    let request;
    try {
      const secrets = openSecrets(box, channel.id, channel.config);
      const data = { ...viewEvent(event), team_id: event.team_id };
      const message = { id: delivery.id, type: event.kind, time: event.time_created, text: event.message, data };
      request = requestOf({ kind: channel.kind, secrets, telegramOrigin }, message, this.#now());
    } catch (error) {
      this.#log.error({ err: error, channelId: channel.id }, "what is kept of a channel cannot be read; was the secret key changed?");
      return { isTaken: false, status: null, error: "the channel's configuration cannot be read: set it again", retryAfterMs: 0 };
    }
    return send(guard, request, timeoutMs, signal);
  }

  async #record({ delivery, channel }: ClaimedDelivery, outcome: SendOutcome): Promise<void> {
    const { db } = this.#deps;
    const now = this.#now();
    const context = { channelId: channel.id, deliveryId: delivery.id, attempts: delivery.attempts, status: outcome.status };
    // One statement each: whoever deletes the channel locks the same rows the other way round
    if (outcome.isTaken) {
      if (await endAttempt(db, delivery, { state: "delivered", error: null, status: outcome.status }, now)) {
        this.#log.debug(context, "delivered");
      }
      await noteSuccess(db, channel.id);
      return;
    }
    const { error, status, retryAfterMs } = outcome;
    const timeNext = new Date(now.getTime() + waitAfter(delivery.attempts, retryAfterMs, this.#deps.random));
    const isOver = timeNext > delivery.time_expires;
    await endAttempt(db, delivery, isOver ? { state: "failed", error, status } : { state: "pending", timeNext, error, status }, now);
    await noteFailure(db, channel.id, now, restAfter);
    this.#log[isOver ? "warn" : "debug"]({ ...context, reason: error }, isOver ? "a delivery was given up" : "a try failed");
  }

  async #upkeep(): Promise<void> {
    const now = this.#now();
    if (now.getTime() < this.#nextUpkeepMs) return;
    const { db } = this.#deps;
    const deadSince = new Date(now.getTime() - deliveryTimeoutMs);
    const count = await giveUpDeliveries(db, { now, deadSince, pendingMax });
    if (count > 0) this.#log.warn({ count }, "deliveries were given up");
    await forgetDeliveries(db, new Date(now.getTime() - deliveredKeptMs), new Date(now.getTime() - failedKeptMs));
    this.#nextUpkeepMs = now.getTime() + upkeepIntervalMs;
  }

  #now(): Date {
    return this.#deps.now?.() ?? new Date();
  }
}
