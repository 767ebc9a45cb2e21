import type { Socket } from "node:net";

import type { EgressProxy } from "@roost/contract";

import type { HostEgress } from "./egress-rules.ts";

/**
 * The port between the sandbox manager and the host's network. `LinuxNetwork` is the real one, `FakeNetwork` serves tests.
 *
 * A slot is a numbered, prepared set of network resources lent to one VM: a namespace with a tap for the VMM, a veth pair
 * to the host, addresses and filter rules. Every guest sees the same addresses; from the host each slot has its own.
 */
export interface Network {
  /**
   * Readies the host and removes what no slot in `inUse` owns, then prepares slots ahead of need in the background. Until `setEgress` of a slot in use whose policy has a
   * proxy none of its TCP leaves. To be called once, before everything else.
   */
  start(inUse: readonly SlotInUse[]): Promise<void>;

  /** Lends a slot. Rejects with `capacity_exhausted` when all are lent. */
  acquire(signal?: AbortSignal): Promise<Slot>;

  /** The slot of this number, for a VM that an earlier host agent started. */
  slot(index: number): Slot;

  /**
   * Puts in force what the slot's guest may reach; a slot that was just lent lets it reach the internet. All at once: connections that are no longer allowed
   * end. When this rejects, what was in force before still is.
   */
  setEgress(slot: Slot, policy: HostEgress): Promise<void>;

  /** Rejects with `egress_proxy_invalid` when no connection would be opened to a proxy: its address is private, or its name has no other. */
  checkProxy(proxy: EgressProxy): Promise<void>;

  /** Takes a slot back: nothing of its last guest is left when this resolves. Idempotent. */
  release(slot: Slot): Promise<void>;

  /** Opens a TCP connection to a port of the slot's guest. */
  dial(slot: Slot, port: number, options: DialOptions): Promise<Socket>;

  /** Slots this host can lend at once */
  readonly slotCountMax: number;

  /** Resolvers the guests are told and may reach */
  readonly guestDnsServers: readonly string[];

  /** Uids of this instance's VMMs, and of nothing else on the machine; null in fakes */
  readonly uidRange: UidRange | null;

  /** Ends the background work; with `remove`, removes everything of this instance from the kernel too. */
  close(options: { readonly remove: boolean }): Promise<void>;
}

export interface UidRange {
  readonly first: number;
  readonly count: number;
}

/** A slot of a VM that an earlier host agent started, with the policy that its sandbox has. */
export interface SlotInUse {
  readonly index: number;
  readonly policy: HostEgress;
}

export interface DialOptions {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

export interface Slot {
  readonly index: number;
  /** Network namespace the VMM runs in, as a path; null in fakes */
  readonly namespacePath: string | null;
  readonly tapName: string;
  /** The guest's, the same in every slot */
  readonly macAddress: string;
  /** Where the host dials the guest */
  readonly address: string;
  /** What the VMM runs as; owns the tap */
  readonly uid: number;
}

/** What every guest sees, whatever its slot: so a restore changes nothing in it. */
export const guestAddress = "169.254.0.21";
export const gatewayAddress = "169.254.0.22";
export const guestPrefixLength = 30;
export const guestMacAddress = "02:fc:00:00:00:05";
export const gatewayMacAddress = "02:fc:00:00:00:06";
export const tapName = "tap0";
