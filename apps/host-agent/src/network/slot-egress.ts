import type { EgressPolicy } from "@roost/contract";
import { run, type Logger } from "@roost/kit";

import { EgressGateway } from "../egress/egress-gateway.ts";
import { PublicAddresses } from "../egress/public-addresses.ts";
import { egressRules, isOpen, type EgressRules } from "./egress-rules.ts";
import { deniedRanges, listenersChange, type EgressListeners } from "./policy.ts";
import { setSlotEgress, type SlotPlan } from "./slot-commands.ts";

interface OpenGateway {
  readonly gateway: EgressGateway;
  readonly listeners: EgressListeners;
  readonly hostAddress: string;
}

export interface SlotEgressesOptions {
  /** The host's table */
  readonly tableName: string;
  readonly plan: (slot: number) => SlotPlan;
  readonly resolvers: readonly string[];
  readonly deniedExtra: readonly string[];
  readonly log: Logger;
}

/**
 * What the guests of lent slots may reach beyond the default policy: rules in each slot's namespace and, where names are allowed, a gateway.
 *
 * A gateway listens on a free port of the host's end of the slot's veth pair, and the host's table lets nothing of a slot through to the host but that. The
 * alternative, a listener inside the namespace, would need a process of its own for each slot.
 */
export class SlotEgresses {
  readonly #options: SlotEgressesOptions;
  readonly #addresses: PublicAddresses;
  /** Slots whose rules this process made: others have those of an earlier host agent. False: as they were made */
  readonly #changed = new Map<number, boolean>();
  readonly #gateways = new Map<number, OpenGateway>();

  constructor(options: SlotEgressesOptions) {
    this.#options = options;
    this.#addresses = new PublicAddresses({ resolvers: options.resolvers, denied: [...deniedRanges, ...options.deniedExtra] });
  }

  /** A slot was made, with the default policy. */
  made(slot: number): void {
    this.#changed.set(slot, false);
  }

  /** All at once, or not at all. One call at a time for each slot. */
  async set(slot: number, policy: EgressPolicy): Promise<void> {
    const changed = this.#changed.get(slot);
    if (changed === false && isOpen(policy)) return;
    const plan = this.#options.plan(slot);
    const rules = egressRules(policy);
    const present = this.#gateways.get(slot);
    const opened = rules.domains.length > 0 && present === undefined ? await this.#open(plan, rules) : undefined;
    const listeners = rules.domains.length > 0 ? ((opened ?? present)?.listeners ?? null) : null;
    try {
      await setSlotEgress(plan, { rules, listeners }, { whole: changed === undefined });
    } catch (error) {
      if (opened !== undefined) await this.#close(opened);
      throw error;
    }
    this.#changed.set(slot, true);
    if (opened !== undefined) this.#gateways.set(slot, opened);
    // Also when no name is allowed any more: it then gets nothing new, and what is still allowed by address goes on
    present?.gateway.setRules(rules);
  }

  /** Before the slot is removed. Idempotent. */
  async release(slot: number): Promise<void> {
    const present = this.#gateways.get(slot);
    this.#gateways.delete(slot);
    this.#changed.delete(slot);
    if (present !== undefined) await this.#close(present);
  }

  /** The slots keep their rules; connections that were allowed by name end. */
  async close(): Promise<void> {
    for (const slot of this.#gateways.keys()) await this.release(slot);
  }

  async #open(plan: SlotPlan, rules: EgressRules): Promise<OpenGateway> {
    const { log } = this.#options;
    const { hostAddress, innerAddress } = plan;
    const findAddresses = (name: string) => this.#addresses.find(name);
    const opened = { ...(await EgressGateway.open({ hostAddress, innerAddress, rules, findAddresses, log })), hostAddress };
    try {
      await this.#changeHost("add", opened);
      return opened;
    } catch (error) {
      await opened.gateway.close();
      throw error;
    }
  }

  async #close(opened: OpenGateway): Promise<void> {
    // Without it the slot could reach whatever listens on these ports next
    await this.#changeHost("delete", opened).catch((error: unknown) => {
      this.#options.log.error(
        { err: error },
        "the host's rules still name listeners that are closed; a restart of the platform removes them",
      );
    });
    await opened.gateway.close();
  }

  async #changeHost(verb: "add" | "delete", { hostAddress, listeners }: OpenGateway): Promise<void> {
    await run(["nft", "-f", "-"], { input: listenersChange(verb, this.#options.tableName, hostAddress, listeners) });
  }
}
