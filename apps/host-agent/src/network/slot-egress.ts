import type { EgressPolicy, EgressProxy } from "@roost/contract";
import { Cleanup, must, run, type Logger } from "@roost/kit";

import { EgressGateway } from "../egress/egress-gateway.ts";
import { checkProxy } from "../egress/egress-proxy.ts";
import { PublicAddresses } from "../egress/public-addresses.ts";
import { egressRules, isOpen, openEgress, type EgressRules } from "./egress-rules.ts";
import { deniedRanges, divertedChange, listenersChange, proxiedChange, type EgressListeners, type SlotEgress } from "./policy.ts";
import { setSlotEgress, type SlotPlan } from "./slot-commands.ts";

interface OpenGateway {
  readonly gateway: EgressGateway;
  readonly listeners: EgressListeners;
}

interface SlotState {
  /** The slot's rules; undefined: those of an earlier host agent */
  readonly egress: SlotEgress | undefined;
  /** They are those it was made with */
  readonly isAsMade: boolean;
  /** The host's table lets none of its TCP leave directly */
  readonly isProxied: boolean;
  readonly open: OpenGateway | undefined;
}

/** Of a slot that this process did not make. */
const unknownState: SlotState = { egress: undefined, isAsMade: false, isProxied: false, open: undefined };

export interface SlotEgressesOptions {
  /** The host's table */
  readonly tableName: string;
  readonly plan: (slot: number) => SlotPlan;
  /** Slots in use whose TCP the host's table lets not leave directly */
  readonly proxied: ReadonlySet<number>;
  readonly resolvers: readonly string[];
  readonly deniedExtra: readonly string[];
  /** Where proxies may be although no guest reaches it */
  readonly proxyRanges: readonly string[];
  readonly log: Logger;
}

/**
 * What the guests of lent slots may reach beyond the default policy: rules in each slot's namespace and, where names are allowed or there is a proxy, a gateway.
 *
 * A gateway listens on free ports of the host's end of the slot's veth pair, and the host's table lets nothing of a slot through to the host but that. The
 * alternative, a listener inside the namespace, would need a process of its own for each slot.
 */
export class SlotEgresses {
  readonly #options: SlotEgressesOptions;
  readonly #addresses: PublicAddresses;
  readonly #proxyAddresses: PublicAddresses;
  readonly #slots = new Map<number, SlotState>();

  constructor(options: SlotEgressesOptions) {
    this.#options = options;
    const { resolvers, proxyRanges } = options;
    const denied = [...deniedRanges, ...options.deniedExtra];
    this.#addresses = new PublicAddresses({ resolvers, denied });
    this.#proxyAddresses = new PublicAddresses({ resolvers, denied, allowed: proxyRanges });
    for (const slot of options.proxied) this.#slots.set(slot, { ...unknownState, isProxied: true });
  }

  /** A slot was made, with the default policy. */
  made(slot: number): void {
    const egress = { rules: egressRules(openEgress), listeners: null };
    this.#slots.set(slot, { egress, isAsMade: true, isProxied: false, open: undefined });
  }

  /** Rejects with `egress_proxy_invalid` when no connection would be opened to a proxy. */
  async checkProxy(proxy: EgressProxy): Promise<void> {
    await checkProxy(proxy, this.#proxyAddresses);
  }

  /**
   * All at once, or not at all. One call at a time for each slot. What a proxy closes is closed first, and opened again last, so that no TCP leaves directly
   * under either policy that must not.
   */
  async set(slot: number, policy: EgressPolicy): Promise<void> {
    const present = this.#stateOf(slot);
    if (present.isAsMade && isOpen(policy)) return;
    const undo = new Cleanup();
    try {
      const next = await this.#change(slot, present, egressRules(policy), undo);
      undo.handOver(next);
      this.#slots.set(slot, next);
    } catch (error) {
      await undo.run().catch((failure: unknown) => {
        this.#options.log.error(
          { err: failure, slot },
          "a change of what a guest may reach was not undone completely; a restart of the platform mends that",
        );
      });
      throw error;
    }
  }

  async #change(slot: number, present: SlotState, rules: EgressRules, undo: Cleanup): Promise<SlotState> {
    const plan = this.#options.plan(slot);
    const isProxied = rules.proxy !== null;
    const hasNames = rules.domains.length > 0;
    let { open } = present;
    if (open === undefined && (isProxied || hasNames)) {
      open = await this.#open(plan, rules);
      const opened = open;
      undo.defer("close the gateway", () => this.#close(plan, opened));
    }
    if (isProxied) {
      const { listeners } = must(open, "the gateway of a slot with a proxy");
      // Also where it is so already: to add what is there changes nothing
      await this.#changeHost(this.#proxied("add", plan), this.#diverted("add", plan, listeners));
      if (!present.isProxied || present.open === undefined) {
        const before = present.isProxied ? [] : [this.#proxied("delete", plan)];
        undo.defer("divert TCP no longer", () => this.#changeHost(this.#diverted("delete", plan, listeners), ...before));
      }
    }
    const egress = { rules, listeners: hasNames ? must(open, "the gateway of a slot with names").listeners : null };
    await setSlotEgress(plan, egress, { whole: present.egress === undefined });
    const before = present.egress;
    if (before !== undefined) undo.defer("put the rules before in force again", () => setSlotEgress(plan, before, { whole: false }));
    if (!isProxied && present.isProxied) {
      await this.#changeHost(
        this.#proxied("delete", plan),
        ...(present.open === undefined ? [] : [this.#diverted("delete", plan, present.open.listeners)]),
      );
    }
    // Also when nothing is left for it to do: it then gets nothing new, and what is still allowed goes on
    open?.gateway.setRules(rules);
    return { egress, isAsMade: false, isProxied, open };
  }

  /** Before the slot is removed. Idempotent. */
  async release(slot: number): Promise<void> {
    const present = this.#stateOf(slot);
    await this.#closeGateway(slot);
    this.#slots.delete(slot);
    if (present.isProxied) await this.#changeHost(this.#proxied("delete", this.#options.plan(slot))).catch(this.#logLeftBehind);
  }

  /** The slots keep their rules, and TCP that must not leave directly does not; connections that a gateway carries end. */
  async close(): Promise<void> {
    for (const slot of this.#slots.keys()) await this.#closeGateway(slot);
  }

  async #closeGateway(slot: number): Promise<void> {
    const present = this.#stateOf(slot);
    const { open } = present;
    if (open === undefined) return;
    const plan = this.#options.plan(slot);
    this.#slots.set(slot, { ...present, open: undefined });
    if (present.isProxied) await this.#changeHost(this.#diverted("delete", plan, open.listeners)).catch(this.#logLeftBehind);
    await this.#close(plan, open);
  }

  #stateOf(slot: number): SlotState {
    return this.#slots.get(slot) ?? unknownState;
  }

  async #open(plan: SlotPlan, rules: EgressRules): Promise<OpenGateway> {
    const opened = await EgressGateway.open({
      hostAddress: plan.hostAddress,
      innerAddress: plan.innerAddress,
      rules,
      addresses: this.#addresses,
      proxyAddresses: this.#proxyAddresses,
      log: this.#options.log,
    });
    try {
      await this.#changeHost(this.#listeners("add", plan, opened.listeners));
      return opened;
    } catch (error) {
      await opened.gateway.close();
      throw error;
    }
  }

  async #close(plan: SlotPlan, opened: OpenGateway): Promise<void> {
    // Without it the slot could reach whatever listens on these ports next
    await this.#changeHost(this.#listeners("delete", plan, opened.listeners)).catch(this.#logLeftBehind);
    await opened.gateway.close();
  }

  readonly #logLeftBehind = (error: unknown) => {
    this.#options.log.error(
      { err: error },
      "the host's rules still name listeners or a slot that are gone; a restart of the platform removes them",
    );
  };

  #listeners(verb: "add" | "delete", plan: SlotPlan, listeners: EgressListeners): string {
    return listenersChange(verb, this.#options.tableName, plan.hostAddress, listeners);
  }

  #proxied(verb: "add" | "delete", plan: SlotPlan): string {
    return proxiedChange(verb, this.#options.tableName, plan.innerAddress);
  }

  #diverted(verb: "add" | "delete", plan: SlotPlan, listeners: EgressListeners): string {
    return divertedChange(verb, this.#options.tableName, plan, listeners);
  }

  /** One transaction. */
  async #changeHost(...changes: readonly string[]): Promise<void> {
    await run(["nft", "-f", "-"], { input: changes.join("") });
  }
}
