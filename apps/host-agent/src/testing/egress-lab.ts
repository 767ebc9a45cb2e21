import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { silentLogger } from "@roost/kit";

import { UpstreamTrust } from "../egress/upstream-trust.ts";
import { namespaceName, openInstance, type Instance } from "../instance.ts";
import type { HostEgress } from "../network/egress-rules.ts";
import type { GuestLimits } from "../network/limits.ts";
import { LinuxNetwork, type LinuxNetworkOptions } from "../network/linux-network.ts";
import type { Slot, SlotInUse } from "../network/network.ts";
import { NetworkLab, world, type LabGuest } from "./network-lab.ts";

/** The defaults of the settings */
export const labLimits: GuestLimits = { mbitMax: 0, connectionsMax: 4_096, connectionsPerSecMax: 500 };

/** The network of an installation in a lab. */
export function labNetwork(instance: Instance, given: Partial<LinuxNetworkOptions> = {}): LinuxNetwork {
  return new LinuxNetwork({
    instance,
    slotCidr: "198.18.0.0/15",
    slotCount: 8,
    slotPoolSize: 0,
    uidBase: 1_879_048_192,
    guestDnsServers: [world.resolver],
    egressProxyRanges: [],
    upstreamTrust: new UpstreamTrust(),
    guestLimits: labLimits,
    log: silentLogger,
    ...given,
  });
}

/** A lab with an installation's network, one slot of it, and a guest in that. */
export class EgressLab implements AsyncDisposable {
  readonly folder: string;
  readonly instance: Instance;
  readonly lab: NetworkLab;
  readonly #given: Partial<LinuxNetworkOptions>;
  #network: LinuxNetwork;
  #plugged: { readonly slot: Slot; readonly guest: LabGuest } | undefined;

  private constructor(folder: string, instance: Instance, lab: NetworkLab, given: Partial<LinuxNetworkOptions>) {
    this.folder = folder;
    this.instance = instance;
    this.lab = lab;
    this.#given = given;
    this.#network = labNetwork(instance, given);
  }

  /** `prefix`: two letters that no other test's lab has. */
  static async create(prefix: string, given: Partial<LinuxNetworkOptions> = {}): Promise<EgressLab> {
    const folder = await mkdtemp(join(tmpdir(), "roost-egress-"));
    const instance = await openInstance(folder);
    const lab = await NetworkLab.create(`${prefix}${instance.tag}`).catch(async (error: unknown) => {
      await rm(folder, { recursive: true });
      throw error;
    });
    const made = new EgressLab(folder, instance, lab, given);
    try {
      await made.network.start([]);
      made.#plugged = await made.plug(0);
      return made;
    } catch (error) {
      await made[Symbol.asyncDispose]();
      throw error;
    }
  }

  get network(): LinuxNetwork {
    return this.#network;
  }

  get slot(): Slot {
    if (this.#plugged === undefined) throw new Error("no slot was lent");
    return this.#plugged.slot;
  }

  get guest(): LabGuest {
    if (this.#plugged === undefined) throw new Error("no guest was plugged in");
    return this.#plugged.guest;
  }

  /** Another slot with a guest. */
  async plug(index: number): Promise<{ readonly slot: Slot; readonly guest: LabGuest }> {
    const slot = await this.network.acquire();
    return { slot, guest: await this.lab.plugGuest(namespaceName(this.instance, slot.index), index) };
  }

  async setEgress(policy: HostEgress): Promise<void> {
    await this.network.setEgress(this.slot, policy);
  }

  /** The host agent ends, and the next one finds slots in use. */
  async restart(inUse: readonly SlotInUse[], meanwhile: () => Promise<void> = async () => undefined): Promise<void> {
    await this.network.close({ remove: false });
    await meanwhile();
    this.#network = labNetwork(this.instance, this.#given);
    await this.#network.start(inUse);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.lab[Symbol.asyncDispose]();
    await this.network.close({ remove: true });
    await rm(this.folder, { recursive: true, force: true });
  }
}
