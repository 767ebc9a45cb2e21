import { randomBytes, randomUUID } from "node:crypto";

import { newId, type Channel, type CreateChannelBody, type Delivery } from "@roost/contract";

import { FakeError, type FakeHandlers } from "./fake-call.ts";

/** Channels that are only remembered: nothing is sent to them. */
export class LocalChannels {
  readonly all = new Map<string, Channel>();
  readonly deliveries: Delivery[] = [];
  /** What the next tests of channels answer */
  testStatus = 200;

  handlers(): FakeHandlers["http"] {
    const find = (call: { readonly parameters: Readonly<Record<string, string>> }): Channel => {
      const id = call.parameters["channel"] ?? "";
      const channel = this.all.get(id);
      if (channel === undefined) throw new FakeError("channel_not_found", `there is no channel ${id}`);
      return channel;
    };
    return {
      createChannel: (call) => {
        const { name, kind, config, kinds, platform_events: platformEvents, is_enabled: isEnabled } = call.body as CreateChannelBody;
        const now = new Date().toISOString();
        const channel: Channel = {
          id: newId("c"),
          name,
          kind,
          destination: new URL(config["url"] ?? "https://chat.example").origin,
          kinds,
          platform_events: platformEvents,
          is_enabled: isEnabled,
          failing_since: null,
          pending: 0,
          failed: 0,
          created_at: now,
          updated_at: now,
        };
        this.all.set(channel.id, channel);
        return { channel, secret: kind === "webhook" ? newSecret() : null };
      },
      listChannels: () => ({ channels: [...this.all.values()].sort((a, b) => (a.name < b.name ? -1 : 1)) }),
      getChannel: (call) => find(call),
      updateChannel: (call) => {
        const channel = { ...find(call), ...(call.body as Partial<Channel>) };
        this.all.set(channel.id, channel);
        return channel;
      },
      deleteChannel: (call) => void this.all.delete(find(call).id),
      testChannel: (call) => {
        find(call);
        const isTaken = this.testStatus < 300;
        return { delivered: isTaken, status: this.testStatus, error: isTaken ? null : `it answered with status ${this.testStatus}` };
      },
      rotateChannelSecret: (call) => {
        find(call);
        return { secret: newSecret(), old_secret_until: new Date(Date.now() + 86_400_000).toISOString() };
      },
      listDeliveries: (call) => {
        find(call);
        const state = call.query.get("state");
        return { deliveries: this.deliveries.filter((delivery) => state === null || delivery.state === state), next_cursor: null };
      },
      retryDelivery: (call) => {
        find(call);
        const index = this.deliveries.findIndex(({ id }) => id === call.parameters["delivery"]);
        const delivery = this.deliveries[index];
        if (delivery === undefined) throw new FakeError("delivery_not_found", `there is no delivery ${call.parameters["delivery"]}`);
        const retried: Delivery = { ...delivery, state: "pending", ended_at: null, next_attempt_at: new Date().toISOString() };
        this.deliveries[index] = retried;
        return retried;
      },
    };
  }

  /** A delivery that was given up. */
  fail(): Delivery {
    const now = new Date().toISOString();
    const delivery: Delivery = {
      id: randomUUID(),
      event_id: randomUUID(),
      event_kind: "sandbox.failed",
      position: this.deliveries.length + 1,
      state: "failed",
      attempts: 30,
      next_attempt_at: null,
      last_status: 500,
      last_error: "it answered with status 500",
      created_at: now,
      ended_at: now,
    };
    this.deliveries.unshift(delivery);
    return delivery;
  }
}

function newSecret(): string {
  return `whsec_${randomBytes(32).toString("base64")}`;
}
