import { networkPolicySchema, PlatformError, type NetworkPolicy, type SandboxState } from "@roost/contract";

import type { Database } from "../db/database.ts";
import { findUnsealedNetworks, recordNetwork, rewriteNetwork } from "../db/network.ts";
import type { OwnedId } from "../db/owned-id.ts";
import type { SandboxRow } from "../db/sandboxes.ts";
import { saveTimeoutMs } from "../hosts/host-link.ts";
import type { Hosts } from "../hosts/hosts.ts";
import { observedFrom } from "../hosts/observed.ts";
import { toWireEgress } from "../hosts/wire-egress.ts";
import { askOfNewest } from "./ask-of-newest.ts";
import type { NetworkSecrets } from "./network-secrets.ts";
import type { SandboxRecords } from "./records.ts";

export interface NetworksDependencies {
  readonly database: Database;
  readonly records: SandboxRecords;
  readonly hosts: Hosts;
  readonly secrets: NetworkSecrets;
}

/** Changes of one sandbox that may be under way; above it `sandbox_busy` */
const changesMax = 16;

/** What of a policy says what the guest may reach. */
export type EgressWishes = Pick<NetworkPolicy, "allow_internet" | "allow_out" | "deny_out" | "egress_proxy" | "rules"> &
  Partial<Pick<NetworkPolicy, "limits">>;

/** States in which a sandbox's host can be asked: in others its loop is busy with what may take long. */
const settled: ReadonlySet<SandboxState> = new Set(["running", "snapshotting", "paused"]);

/** Network policies of sandboxes that are there. */
export class Networks {
  readonly #deps: NetworksDependencies;
  /** Changes under way by sandbox: host and record must see two of them in the same order */
  readonly #changes = new Map<string, { last: Promise<unknown>; count: number }>();

  constructor(deps: NetworksDependencies) {
    this.#deps = deps;
  }

  /** Seals passwords in records from before that was done; at start. */
  async sealOld(): Promise<void> {
    const { database, secrets } = this.#deps;
    for (const row of await findUnsealedNetworks(database.db))
      await rewriteNetwork(database.db, row, secrets.seal(secrets.open(row.network, row.id), row.id));
  }

  /**
   * Replaces what a sandbox's guest may reach; who may reach its ports stays. When this resolves it is in force, or, of a paused sandbox, will be when it
   * runs again. The host comes first: a record must not name a policy that is not in force.
   */
  async replaceEgress(owned: OwnedId, egress: EgressWishes): Promise<SandboxRow> {
    const { id } = await this.#deps.records.get(owned); // nobody waits behind changes of what is not theirs
    const queue = this.#changes.get(id) ?? { last: Promise.resolve(), count: 0 };
    if (queue.count >= changesMax) {
      throw new PlatformError("sandbox_busy", `too many changes of the network of sandbox ${id} are under way; try again later`, {
        retryAfterSec: 1,
      });
    }
    this.#changes.set(id, queue);
    queue.count += 1;
    const change = queue.last.then(() => this.#replaceEgress(owned, egress));
    queue.last = change.catch(() => undefined); // its caller is told; the next one has nothing to do with it
    try {
      return await change;
    } finally {
      queue.count -= 1;
      if (queue.count === 0) this.#changes.delete(id);
    }
  }

  async #replaceEgress(owned: OwnedId, egress: EgressWishes): Promise<SandboxRow> {
    const { database, records, hosts, secrets } = this.#deps;
    const row = await records.get(owned);
    const { id } = row;
    requireSettled(row);
    const network: NetworkPolicy = { ...networkPolicySchema.parse(row.network), ...egress }; // all that is secret is replaced
    const host = hosts.get(row.host_id);
    const request = { sandboxId: id, network: toWireEgress(network) };
    const answer = await askOfNewest({ records, host, row, requireWanted: requireSettled }, async (revision) =>
      host.client.setNetwork({ ...request, revision }, { timeoutMs: saveTimeoutMs }),
    );
    const observed = observedFrom(answer.sandbox, host.id);
    await records.observe(observed);
    const recorded = await recordNetwork(database.db, row, secrets.seal(network, id), observed.generation);
    if (recorded === undefined) {
      const present = await records.get(owned); // `sandbox_not_found` when it is gone
      return present.host_id === row.host_id ? present : this.#replaceEgress(owned, egress); // else it was moved meanwhile
    }
    records.changedHere(id);
    return recorded;
  }
}

function requireSettled({ id, state }: SandboxRow): void {
  if (settled.has(state)) return;
  throw new PlatformError("sandbox_wrong_state", `sandbox ${id} is ${state}: its network can be changed while it runs or is paused`);
}
