import { createSecureContext, type SecureContext } from "node:tls";

import { second, ServiceLoop, type Logger } from "@roost/kit";

import type { Db } from "../db/database.ts";
import { listHosts, type HostRow } from "../db/hosts.ts";
import { HostLink } from "./host-link.ts";
import { contextOf, hostPeer, isPreviousGood, type HostPeer, type KnownCertificates } from "./host-peer.ts";
import type { HostStanding } from "./host-standing.ts";
import type { Hosts } from "./hosts.ts";
import type { ControlPlaneIdentity } from "./own-identity.ts";
import { connectRemoteHost, type RemoteHost } from "./remote-host.ts";

/** Time between two looks in `ms` where other control planes change hosts, too: what one of them does acts everywhere after at most this */
const sharedIntervalMs = 1 * second;
/** Longest wait in `ms` after a failure: leases go on ending while the database is away, and hosts are back as soon as that is */
const backoffMsMax = 2 * second;
/** And where none does: only leases have to be followed */
const exclusiveIntervalMs = 5 * second;

export interface HostDirectoryDependencies {
  readonly db: Db;
  /** Whether nobody else writes to the database */
  readonly isExclusive: boolean;
  readonly hosts: Hosts;
  /** Who we are to hosts on other machines; asked for when there is the first of these */
  readonly identity: () => Promise<ControlPlaneIdentity>;
  readonly log: Logger;
  readonly now: () => Date;
  /** Tests put another in its place */
  readonly connect?: (peer: HostPeer) => RemoteHost;
}

interface Remote {
  row: HostRow;
  readonly connection: RemoteHost;
}

/**
 * Keeps the hosts that this control plane has links to the same as those that are recorded, whoever recorded them. A reconciler: it reads the table and acts on the
 * difference, when somebody pokes and every second.
 */
export class HostDirectory {
  readonly #deps: HostDirectoryDependencies;
  readonly #remotes = new Map<string, Remote>();
  #context: { readonly of: object; readonly context: SecureContext } | undefined;
  #loop: ServiceLoop | undefined;
  #refreshing: Promise<void> = Promise.resolve();

  constructor(deps: HostDirectoryDependencies) {
    this.#deps = deps;
  }

  poke(): void {
    this.#loop?.poke();
  }

  async run(signal: AbortSignal): Promise<void> {
    this.#loop = new ServiceLoop("host directory", this.#deps.log, signal, { backoffMsMax });
    await this.#loop.every(this.#deps.isExclusive ? exclusiveIntervalMs : sharedIntervalMs, async () => this.refresh());
  }

  /** One look, after any that is under way. */
  async refresh(): Promise<void> {
    this.#refreshing = this.#refreshing.catch(() => undefined).then(() => this.#refresh());
    await this.#refreshing;
  }

  get hasRemotes(): boolean {
    return this.#remotes.size > 0;
  }

  close(): void {
    for (const { connection } of this.#remotes.values()) connection.close();
  }

  async #refresh(): Promise<void> {
    const { hosts, log } = this.#deps;
    const rows = await listHosts(this.#deps.db);
    const present = new Set(rows.map((row) => row.id));
    for (const [id, { connection }] of this.#remotes) {
      if (present.has(id)) continue;
      this.#remotes.delete(id);
      hosts.remove(id);
      connection.close();
      log.info({ hostId: id }, "the host was deleted: it is followed no longer");
    }
    for (const row of rows) {
      hosts.setStanding(row.id, standingOf(row));
      const remote = this.#remotes.get(row.id);
      if (remote !== undefined) {
        const hasMoved = remote.row.address !== row.address;
        remote.row = row;
        if (hasMoved) remote.connection.reconnect();
      } else if (row.address !== null && row.state !== "pending") {
        await this.#add(row);
      }
    }
  }

  async #add(row: HostRow): Promise<void> {
    const { hosts, log, now } = this.#deps;
    if (hosts.all().some((link) => link.id === row.id)) return; // in this process, whatever it registered as
    const identity = await this.#deps.identity();
    const current = () => this.#remotes.get(row.id)?.row ?? row;
    const peer = hostPeer(row.id, {
      address: () => current().address ?? "",
      secureContext: () => this.#contextFor(identity),
      certificates: () => knownCertificates(current(), now()),
    });
    const connection = (this.#deps.connect ?? connectRemoteHost)(peer);
    this.#remotes.set(row.id, { row, connection });
    hosts.add(new HostLink(connection, log));
    log.info({ hostId: row.id, name: row.name, address: row.address }, "following a host");
  }

  #contextFor(identity: ControlPlaneIdentity): SecureContext {
    const present = identity.present;
    if (this.#context?.of !== present) this.#context = { of: present, context: createSecureContext(contextOf(present)) };
    return this.#context.context;
  }
}

function standingOf(row: HostRow): HostStanding {
  return { state: row.state, teamId: row.team_id, tags: row.tags, timeLeaseEnds: row.time_lease_ends };
}

function knownCertificates(row: HostRow, now: Date): KnownCertificates {
  return {
    current: row.certificate_fingerprint,
    timeIssued: row.time_certificate_issued,
    previous: isPreviousGood(row, now) ? row.previous_fingerprint : null,
  };
}
