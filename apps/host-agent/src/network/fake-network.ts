import type { Socket } from "node:net";

import { PlatformError, type EgressProxy } from "@roost/contract";

import { dialTcp } from "./dial.ts";
import type { HostEgress } from "./egress-rules.ts";
import { guestMacAddress, tapName, type DialOptions, type Network, type Slot, type SlotInUse } from "./network.ts";

/**
 * Slots without a kernel, for tests: a dial goes to the loopback port that the test gives. Keeps the promises of the
 * port: no slot is lent twice, and the numbers are bounded.
 */
export class FakeNetwork implements Network {
  readonly slotCountMax: number;
  readonly uidRange = null;
  readonly guestDnsServers = ["192.0.2.53"];
  readonly lent = new Set<number>();
  /** Loopback port that stands for a port of a slot's guest; undefined refuses the connection */
  resolvePort: (slot: Slot, port: number) => number | undefined = () => undefined;
  /** Called at each acquire; throws to make it fail */
  onAcquire: (signal?: AbortSignal) => Promise<void> | void = () => undefined;
  /** Called at each release; throws to make it fail */
  onRelease: (slot: Slot) => Promise<void> | void = () => undefined;
  /** Called at each change of what a slot's guest may reach; throws to make it fail */
  onSetEgress: (slot: Slot, policy: HostEgress) => Promise<void> | void = () => undefined;
  /** Called before a policy with a proxy is taken; throws to refuse it */
  onCheckProxy: (proxy: EgressProxy) => Promise<void> | void = () => undefined;
  /** What is in force, by number of a lent slot; absent: the internet */
  readonly egress = new Map<number, HostEgress>();
  /** Slots that were in use when it was started last */
  startedWith: readonly SlotInUse[] = [];
  closed = false;

  constructor(options: { readonly slotCountMax?: number } = {}) {
    this.slotCountMax = options.slotCountMax ?? 64;
  }

  async start(inUse: readonly SlotInUse[]): Promise<void> {
    this.startedWith = inUse;
    this.lent.clear();
    for (const { index } of inUse) this.lent.add(index);
    for (const index of this.egress.keys()) if (!this.lent.has(index)) this.egress.delete(index);
    this.closed = false;
  }

  async acquire(signal?: AbortSignal): Promise<Slot> {
    signal?.throwIfAborted();
    let index = 0;
    while (this.lent.has(index)) index += 1;
    if (index >= this.slotCountMax)
      throw new PlatformError("capacity_exhausted", "this host has no network slot left", { retryAfterSec: 5 });
    this.lent.add(index);
    try {
      await this.onAcquire(signal);
    } catch (error) {
      this.lent.delete(index);
      throw error;
    }
    return this.slot(index);
  }

  slot(index: number): Slot {
    return { index, namespacePath: null, tapName, macAddress: guestMacAddress, address: "127.0.0.1", uid: 900_000 + index };
  }

  async setEgress(slot: Slot, policy: HostEgress): Promise<void> {
    await this.onSetEgress(slot, policy);
    this.egress.set(slot.index, policy);
  }

  async checkProxy(proxy: EgressProxy): Promise<void> {
    await this.onCheckProxy(proxy);
  }

  async release(slot: Slot): Promise<void> {
    if (!this.lent.has(slot.index)) return;
    await this.onRelease(slot);
    this.egress.delete(slot.index);
    this.lent.delete(slot.index);
  }

  async dial(slot: Slot, port: number, options: DialOptions): Promise<Socket> {
    // 1 is never listened on in tests: refuses as a guest without a listener does
    return dialTcp("127.0.0.1", this.resolvePort(slot, port) ?? 1, options);
  }

  async close(options: { readonly remove: boolean }): Promise<void> {
    if (options.remove) this.lent.clear();
    this.closed = true;
  }
}
