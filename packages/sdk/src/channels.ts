import type {
  Channel,
  ChannelSecret,
  ChannelTest,
  CreateChannelInput,
  Delivery,
  DeliveryList,
  DeliveryState,
  NewChannel,
  UpdateChannelInput,
} from "@roost/contract";

import type { Api } from "./api.ts";
import type { RequestOptions } from "./connection.ts";

export interface ListDeliveriesOptions extends RequestOptions {
  readonly state?: DeliveryState | undefined;
  /** Deliveries per page. */
  readonly limit?: number | undefined;
}

/** Where the team's events are sent: webhooks and chats. */
export class Channels {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  /** A webhook's `secret` is in this answer and never again. */
  async create(input: CreateChannelInput, options: RequestOptions = {}): Promise<NewChannel> {
    return this.#api.call("createChannel", { body: input }, options);
  }

  /** By name. */
  async list(options: RequestOptions = {}): Promise<Channel[]> {
    return (await this.#api.call("listChannels", {}, options)).channels;
  }

  async get(id: string, options: RequestOptions = {}): Promise<Channel> {
    return this.#api.call("getChannel", { path: { channel: id } }, options);
  }

  /** What is not given stays. */
  async update(id: string, input: UpdateChannelInput, options: RequestOptions = {}): Promise<Channel> {
    return this.#api.call("updateChannel", { path: { channel: id }, body: input }, options);
  }

  /** What was on its way to it is not sent. */
  async delete(id: string, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("deleteChannel", { path: { channel: id } }, options);
  }

  /** Sends a message now. That it was not taken is an answer, no error. */
  async test(id: string, options: RequestOptions = {}): Promise<ChannelTest> {
    return this.#api.call("testChannel", { path: { channel: id } }, options);
  }

  /** A new secret for a webhook; the old one is valid, too, for a day. */
  async rotateSecret(id: string, options: RequestOptions = {}): Promise<ChannelSecret> {
    return this.#api.call("rotateChannelSecret", { path: { channel: id } }, options);
  }

  /** What was sent, is to be, or was given up, newest event first; further pages are fetched as they are reached. */
  async *deliveries(id: string, options: ListDeliveriesOptions = {}): AsyncGenerator<Delivery, void, void> {
    let cursor: string | undefined;
    do {
      const page = await this.deliveriesPage(id, options, cursor);
      yield* page.deliveries;
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined);
  }

  async deliveriesPage(id: string, options: ListDeliveriesOptions = {}, cursor?: string): Promise<DeliveryList> {
    const { state, limit } = options;
    const query = { state, limit: limit === undefined ? undefined : String(limit), cursor };
    return this.#api.call("listDeliveries", { path: { channel: id }, query }, options);
  }

  /** Tries a delivery again now that was given up, or waits. */
  async retry(id: string, deliveryId: string, options: RequestOptions = {}): Promise<Delivery> {
    return this.#api.call("retryDelivery", { path: { channel: id, delivery: deliveryId } }, options);
  }
}
