import type { EgressProxy } from "@roost/contract";
import { Cleanup, must, run, type Logger } from "@roost/kit";

import { EgressGateway } from "../egress/egress-gateway.ts";
import { checkProxy } from "../egress/egress-proxy.ts";
import { PublicAddresses } from "../egress/public-addresses.ts";
import type { UpstreamTrust } from "../egress/upstream-trust.ts";
import { egressRules, hasHeaderRules, isOpen, openEgress, type EgressRules, type HostEgress } from "./egress-rules.ts";
import {
  deniedRanges,
  divertedChange,
  heldChange,
  listenersChange,
  type Diversion,
  type EgressListeners,
  type SlotEgress,
} from "./policy.ts";
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
  /** What of its TCP the host's table lets not leave directly */
  readonly held: readonly Diversion[];
  readonly open: OpenGateway | undefined;
}

/** What of a slot's TCP must not leave directly under a policy. */
export function heldFor({ proxy, headerRules }: Pick<EgressRules, "proxy" | "headerRules">): Diversion[] {
  return [...(proxy === null ? [] : ["all" as const]), ...(hasHeaderRules(headerRules) ? ["tls" as const] : [])];
}

/** Of a slot that this process did not make. */
const unknownState: SlotState = { egress: undefined, isAsMade: false, held: [], open: undefined };

export interface SlotEgressesOptions {
  /** The host's table */
  readonly tableName: string;
  readonly plan: (slot: number) => SlotPlan;
  /** What of the TCP of slots in use the host's table lets not leave directly */
  readonly held: ReadonlyMap<number, readonly Diversion[]>;
  readonly resolvers: readonly string[];
  readonly deniedExtra: readonly string[];
  /** Where proxies may be although no guest reaches it */
  readonly proxyRanges: readonly string[];
  readonly upstreamTrust: UpstreamTrust;
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
    for (const [slot, held] of options.held) this.#slots.set(slot, { ...unknownState, held });
  }

  /** A slot was made, with the default policy. */
  made(slot: number): void {
    const egress = { rules: egressRules(openEgress), listeners: null };
    this.#slots.set(slot, { egress, isAsMade: true, held: [], open: undefined });
  }

  /** Rejects with `egress_proxy_invalid` when no connection would be opened to a proxy. */
  async checkProxy(proxy: EgressProxy): Promise<void> {
    await checkProxy(proxy, this.#proxyAddresses);
  }

  /**
   * All at once, or not at all. One call at a time for each slot. What a proxy, or rules for headers, close is closed first, and opened again last, so that no TCP
   * leaves directly under either policy that must not.
   */
  async set(slot: number, policy: HostEgress): Promise<void> {
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
    const held = heldFor(rules);
    const hasNames = rules.domains.length > 0;
    let { open } = present;
    if (open === undefined && (held.length > 0 || hasNames)) {
      open = await this.#open(plan, rules);
      const opened = open;
      undo.defer("close the gateway", () => this.#close(plan, opened));
    }
    for (const what of held) {
      const { listeners } = must(open, "the gateway of a slot whose TCP is diverted");
      // Also where it is so already: to add what is there changes nothing
      await this.#changeHost(this.#held("add", what, plan), this.#diverted("add", what, plan, listeners));
      const wasHeld = present.held.includes(what);
      if (!wasHeld || present.open === undefined) {
        const before = wasHeld ? [] : [this.#held("delete", what, plan)];
        undo.defer("divert TCP no longer", () => this.#changeHost(this.#diverted("delete", what, plan, listeners), ...before));
      }
    }
    const egress = { rules, listeners: hasNames ? must(open, "the gateway of a slot with names").listeners : null };
    await setSlotEgress(plan, egress, present.egress);
    const before = present.egress;
    if (before !== undefined) undo.defer("put the rules before in force again", () => setSlotEgress(plan, before, egress));
    for (const what of present.held.filter((each) => !held.includes(each))) {
      await this.#changeHost(
        this.#held("delete", what, plan),
        ...(present.open === undefined ? [] : [this.#diverted("delete", what, plan, present.open.listeners)]),
      );
    }
    // Also when nothing is left for it to do: it then gets nothing new, and what is still allowed goes on
    open?.gateway.setRules(rules);
    return { egress, isAsMade: false, held, open };
  }

  /** Before the slot is removed. Idempotent. */
  async release(slot: number): Promise<void> {
    const present = this.#stateOf(slot);
    await this.#closeGateway(slot);
    this.#slots.delete(slot);
    for (const what of present.held)
      await this.#changeHost(this.#held("delete", what, this.#options.plan(slot))).catch(this.#logLeftBehind);
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
    for (const what of present.held)
      await this.#changeHost(this.#diverted("delete", what, plan, open.listeners)).catch(this.#logLeftBehind);
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
      upstreamTrust: this.#options.upstreamTrust,
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

  #held(verb: "add" | "delete", what: Diversion, plan: SlotPlan): string {
    return heldChange(verb, what, this.#options.tableName, plan.innerAddress);
  }

  #diverted(verb: "add" | "delete", what: Diversion, plan: SlotPlan, listeners: EgressListeners): string {
    return divertedChange(verb, what, this.#options.tableName, plan, listeners);
  }

  /** One transaction. */
  async #changeHost(...changes: readonly string[]): Promise<void> {
    await run(["nft", "-f", "-"], { input: changes.join("") });
  }
}
