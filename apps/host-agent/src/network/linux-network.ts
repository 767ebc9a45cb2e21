import { readdir, readFile, writeFile } from "node:fs/promises";
import type { Socket } from "node:net";

import type { EgressProxy } from "@roost/contract";
import { assert, must, run, type Logger } from "@roost/kit";

import type { UpstreamTrust } from "../egress/upstream-trust.ts";
import { hostTableName, namespaceFolder, namespaceName, namespacePrefix, vethName, vethPrefix, type Instance } from "../instance.ts";
import { claimAddressBlock, releaseAddressBlock, slotAddresses, slotsPerBlock, type AddressBlock } from "./address-block.ts";
import { dialTcp } from "./dial.ts";
import { egressRules, type HostEgress } from "./egress-rules.ts";
import { listInterfaces } from "./interface-names.ts";
import type { GuestLimits } from "./limits.ts";
import { findLocalNetworks } from "./local-networks.ts";
import { guestMacAddress, tapName, type DialOptions, type Network, type Slot, type SlotInUse, type UidRange } from "./network.ts";
import { hostRuleset, removeTable, type Diversion } from "./policy.ts";
import { makeSlot, removeSlot, type SlotPlan } from "./slot-commands.ts";
import { heldFor, SlotEgresses } from "./slot-egress.ts";
import { SlotPool } from "./slot-pool.ts";

export interface LinuxNetworkOptions {
  readonly instance: Instance;
  readonly slotCidr: string;
  readonly slotCount: number;
  readonly slotPoolSize: number;
  readonly uidBase: number;
  readonly guestDnsServers: readonly string[];
  /** CIDR blocks where proxies of sandboxes may be although no guest reaches them */
  readonly egressProxyRanges: readonly string[];
  /** Whom the host believes that it is a server, where it sets headers */
  readonly upstreamTrust: UpstreamTrust;
  /** What each guest may use at most */
  readonly guestLimits: GuestLimits;
  readonly log: Logger;
}

/** The host's network through iproute2 and nftables. Needs root. */
export class LinuxNetwork implements Network {
  readonly guestDnsServers: readonly string[];
  readonly #options: LinuxNetworkOptions;
  readonly #instance: Instance;
  #block: AddressBlock | undefined;
  #deniedExtra: readonly string[] = [];
  #pool: SlotPool | undefined;
  #egress: SlotEgresses | undefined;

  constructor(options: LinuxNetworkOptions) {
    this.#options = options;
    this.#instance = options.instance;
    this.guestDnsServers = options.guestDnsServers;
  }

  get slotCountMax(): number {
    return Math.min(this.#options.slotCount, this.#block?.slotCountMax ?? slotsPerBlock);
  }

  get uidRange(): UidRange {
    return { first: this.#options.uidBase + must(this.#block, "address block").index * slotsPerBlock, count: slotsPerBlock };
  }

  async start(slotsInUse: readonly SlotInUse[]): Promise<void> {
    assert(this.#pool === undefined, "a network is started once");
    const inUse = slotsInUse.map(({ index }) => index);
    const held = new Map(slotsInUse.map(({ index, policy }) => [index, heldFor(egressRules(policy))] as const));
    const heldSlots = (what: Diversion) => [...held].filter(([, each]) => each.includes(what)).map(([index]) => this.slot(index).address);
    this.#block = await claimAddressBlock(this.#instance, {
      slotCidr: this.#options.slotCidr,
      hasSlotsInUse: inUse.length > 0,
      log: this.#options.log,
    });
    this.#deniedExtra = [this.#options.slotCidr, ...(await findLocalNetworks())];
    await this.#enableForwarding();
    await run(["nft", "-f", "-"], {
      input: hostRuleset({
        tableName: hostTableName(this.#instance),
        vethPrefix: vethPrefix(this.#instance),
        blockCidr: this.#block.cidr,
        resolvers: this.guestDnsServers,
        deniedExtra: this.#deniedExtra,
        proxied: heldSlots("all"),
        opened: heldSlots("tls"),
        limits: this.#options.guestLimits,
      }),
    });
    await this.#warnOfOtherFirewalls();
    this.#egress = new SlotEgresses({
      tableName: hostTableName(this.#instance),
      plan: (index) => this.#plan(index),
      held,
      resolvers: this.guestDnsServers,
      deniedExtra: this.#deniedExtra,
      proxyRanges: this.#options.egressProxyRanges,
      upstreamTrust: this.#options.upstreamTrust,
      log: this.#options.log,
    });
    await this.#sweep(inUse);
    this.#pool = new SlotPool({
      maker: { make: (index) => this.#make(index), remove: (index) => this.#remove(index) },
      log: this.#options.log,
      slotCount: this.slotCountMax,
      preparedMax: this.#options.slotPoolSize,
      inUse,
    });
    this.#pool.refill();
  }

  /** Routing between interfaces is a setting of the whole host; sandboxes have no internet without it. It stays on. */
  async #enableForwarding(): Promise<void> {
    const path = "/proc/sys/net/ipv4/ip_forward";
    if ((await readFile(path, "latin1")).trim() === "1") return;
    await writeFile(path, "1\n");
    this.#options.log.info({}, "switched on net.ipv4.ip_forward: sandboxes reach the internet through this host");
  }

  /** A packet must pass every firewall's chain: one that forwards nothing by default cuts sandboxes off, and only its owner can change it. */
  async #warnOfOtherFirewalls(): Promise<void> {
    const chains = await run(["nft", "list", "chains"]);
    const dropping = findDroppingForwardChains(chains).filter((table) => !/^inet roost_[0-9a-f]{6}$/.test(table));
    if (dropping.length === 0) return;
    this.#options.log.warn(
      { tables: dropping },
      `another firewall drops forwarded packets by default (${dropping.join(", ")}): sandboxes have no internet until it accepts ` +
        `what comes from and goes to the interfaces ${vethPrefix(this.#instance)}*`,
    );
  }

  /** Removes slots that nobody uses: those an earlier host agent had prepared, and those of sandboxes that are gone. */
  async #sweep(inUse: readonly number[]): Promise<void> {
    const slots = new Set([
      ...numbersAfter(await readdir(namespaceFolder).catch(() => []), namespacePrefix(this.#instance)), // absent: no namespace was ever made
      ...numbersAfter(await listInterfaces(), vethPrefix(this.#instance)),
    ]);
    for (const index of inUse) slots.delete(index);
    for (const index of slots) await this.#remove(index);
    if (slots.size > 0) this.#options.log.info({ count: slots.size }, "removed network slots of an earlier host agent");
  }

  #plan(index: number): SlotPlan {
    const addresses = slotAddresses(must(this.#block, "address block"), index);
    return {
      namespace: namespaceName(this.#instance, index),
      veth: vethName(this.#instance, index),
      uid: this.slot(index).uid,
      hostAddress: addresses.host,
      innerAddress: addresses.inner,
      resolvers: this.guestDnsServers,
      deniedExtra: this.#deniedExtra,
      limits: this.#options.guestLimits,
    };
  }

  async #make(index: number): Promise<void> {
    await makeSlot(this.#plan(index));
    this.#egress?.made(index);
  }

  async #remove(index: number): Promise<void> {
    await this.#egress?.release(index);
    await removeSlot(this.#plan(index));
  }

  slot(index: number): Slot {
    const block = must(this.#block, "address block");
    return {
      index,
      namespacePath: `${namespaceFolder}/${namespaceName(this.#instance, index)}`,
      tapName,
      macAddress: guestMacAddress,
      address: slotAddresses(block, index).inner,
      uid: this.#options.uidBase + block.index * slotsPerBlock + index,
    };
  }

  async acquire(signal?: AbortSignal): Promise<Slot> {
    return this.slot(await must(this.#pool, "slot pool: start() comes first").acquire(signal));
  }

  async setEgress(slot: Slot, policy: HostEgress): Promise<void> {
    await must(this.#egress, "slot egresses: start() comes first").set(slot.index, policy);
  }

  async checkProxy(proxy: EgressProxy): Promise<void> {
    await must(this.#egress, "slot egresses: start() comes first").checkProxy(proxy);
  }

  async release(slot: Slot): Promise<void> {
    await must(this.#pool, "slot pool: start() comes first").release(slot.index);
  }

  async dial(slot: Slot, port: number, options: DialOptions): Promise<Socket> {
    return dialTcp(slot.address, port, options);
  }

  async close(options: { readonly remove: boolean }): Promise<void> {
    await this.#pool?.close({ removeLent: options.remove });
    await this.#egress?.close();
    if (!options.remove || this.#block === undefined) return;
    await run(["nft", "-f", "-"], { input: removeTable(hostTableName(this.#instance)) });
    await releaseAddressBlock(this.#block);
  }
}

/** Tables whose forward chain drops by default, from `nft list chains`; iptables-nft shows as such a table too. */
export function findDroppingForwardChains(listing: string): string[] {
  return listing.split(/^(?=table )/m).flatMap((table) => {
    const name = /^table (.+) \{/.exec(table)?.[1];
    return name !== undefined && /hook forward .*policy drop/.test(table) ? [name] : [];
  });
}

function numbersAfter(names: readonly string[], prefix: string): number[] {
  return names
    .filter((name) => name.startsWith(prefix))
    .map((name) => Number(name.slice(prefix.length)))
    .filter((index) => Number.isSafeInteger(index) && index >= 0);
}
