import { silentLogger } from "@roost/kit";

import { Audit } from "../audit/audit.ts";
import type { Db } from "../db/database.ts";
import { publishEvents } from "../db/event-stream.ts";

import { ensureHost, findHost, listHosts, moveHost, type HostRow } from "../db/hosts.ts";
import { Events } from "../events/events.ts";
import { Drains } from "../hosts/drains.ts";
import { HostLink } from "../hosts/host-link.ts";
import { unknownStanding } from "../hosts/host-standing.ts";
import { Hosts } from "../hosts/hosts.ts";
import { Operations } from "../operations/operations.ts";
import { Reconciler } from "../sandboxes/reconciler.ts";
import { Sandboxes } from "../sandboxes/sandboxes.ts";
import type { FakeHost } from "../testing/fake-host.ts";
import { firstCaller } from "../testing/first-team.ts";
import { Usage } from "../usage/usage.ts";
import type { SharedDatabase } from "./faulty-database.ts";
import { faultyTransport, type Network } from "./faulty-transport.ts";
import type { HostHistory } from "./host-history.ts";
import { Life } from "./life.ts";

const never = new AbortController().signal;

/** What an operator wants of a host; `pause` and `move`: that it is drained so. */
export type HostAim = "ready" | "cordoned" | "pause" | "move";

export function isDrain(aim: HostAim): aim is "pause" | "move" {
  return aim === "pause" || aim === "move";
}

export interface ReplicaParts {
  readonly database: SharedDatabase;
  readonly hosts: readonly FakeHost[];
  readonly network: Network;
  readonly onBusy: (change: 1 | -1) => void;
  readonly breaks: () => "before" | "after" | undefined;
  readonly now: () => Date;
  /** The time of a sandbox was up */
  readonly onExpired: (sandboxId: string) => void;
}

/** A control plane: the real services, without HTTP and without timers. Its loops are turned by hand. */
export class Replica {
  readonly life: Life;
  readonly sandboxes: Sandboxes;
  readonly reconcilers: readonly Reconciler[];
  readonly #db: Db;
  readonly #now: () => Date;
  readonly #hosts: Hosts;
  readonly #drains: Drains;
  readonly #events: Events;
  readonly #usage: Usage;
  readonly #auditor: Audit;
  /** What it has heard of each host's events, in their order; one that is being told is not told the next */
  readonly #heard = new Map<string, { count: number; isHearing: boolean }>();

  constructor({ database, hosts, network, onBusy, breaks, now, onExpired }: ReplicaParts) {
    this.life = new Life(onBusy, breaks);
    const own = database.openFor(this.life);
    const links = hosts.map(
      (host) =>
        new HostLink(
          { id: host.id, tunnels: host.tunnels, transport: faultyTransport(host.transport, host.id, this.life, network) },
          silentLogger,
        ),
    );
    this.#db = own.db;
    this.#now = now;
    this.#hosts = new Hosts(links, now);
    this.#events = new Events(own.db, silentLogger, now);
    this.#usage = new Usage(own.db, now);
    this.#auditor = new Audit(now);
    const operations = new Operations({ database: own, log: silentLogger, replayWaitMs: 0, now });
    this.sandboxes = new Sandboxes({
      database: own,
      hosts: this.#hosts,
      operations,
      roomWaitMs: 0,
      log: silentLogger,
      onEnded: () => undefined,
      onEvent: async ({ kind, sandboxId }) => {
        if (kind === "sandbox.expired" && sandboxId !== null) onExpired(sandboxId);
      },
      now,
    });
    const moveAway = async (row: HostRow, signal: AbortSignal) => this.sandboxes.moves.moveAway(row, signal);
    this.#drains = new Drains({ db: own.db, hosts: this.#hosts, moveAway, log: silentLogger, now });
    this.reconcilers = links.map(
      (host) => new Reconciler({ db: own.db, host, isExclusive: false, onEnded: () => undefined, log: silentLogger, now }),
    );
  }

  /** Reads what is recorded of hosts, as it is read all the time. */
  async readHosts(): Promise<HostRow[]> {
    const rows = await listHosts(this.#db);
    for (const { id, state } of rows) this.#hosts.setStanding(id, { ...unknownStanding, state });
    return rows;
  }

  /** What an operator wants of a host. */
  async operate(hostId: string, aim: HostAim, now: Date): Promise<void> {
    await ensureHost(this.#db, hostId, now);
    const row = await findHost(this.#db, hostId);
    const drainMode = isDrain(aim) ? aim : null;
    const state = isDrain(aim) ? "draining" : aim;
    if (row === undefined || (row.state === state && row.drain_mode === drainMode)) return;
    const moved = await moveHost(this.#db, row, { state, drainMode }, now);
    if (moved === undefined) throw new Error(`${hostId} was changed by somebody else`);
  }

  /** A round of each drain, and of moves. */
  async drainSome(): Promise<void> {
    const rows = await this.readHosts();
    for (const row of rows) if (row.state === "draining") await this.#drains.drainOnce(row, never);
    await this.sandboxes.moves.round(never);
  }

  /** Hears what a host tells next, at most `max`; when that fails it is told all of it again. */
  async hear(hostId: string, histories: ReadonlyMap<string, HostHistory>, max: number): Promise<void> {
    const heard = this.#heard.get(hostId) ?? { count: 0, isHearing: false };
    this.#heard.set(hostId, heard);
    if (heard.isHearing) return;
    heard.isHearing = true;
    try {
      for (const event of histories.get(hostId)?.events.slice(heard.count, heard.count + max) ?? []) {
        await this.#events.record(event);
        await this.#usage.happened(event);
        heard.count += 1;
      }
    } catch (error) {
      heard.count = 0;
      throw error;
    } finally {
      heard.isHearing = false;
    }
  }

  async publish(): Promise<void> {
    const now = this.#now();
    while ((await publishEvents(this.#db, { now, timeExpires: now })) > 0);
  }

  /** Writes entries of requests with these keys. */
  async audit(keys: readonly string[]): Promise<void> {
    const entries = keys.map((key) =>
      this.#auditor.pending(firstCaller, { action: "sandbox.create", resource: { kind: "sandbox", id: key } }),
    );
    await this.#auditor.append(this.#db, entries);
  }
}
