import type { HeartbeatAnswer, HeartbeatBody, WantedHostState } from "@roost/contract";
import { second, ServiceLoop, type Logger } from "@roost/kit";

import { systemCaller } from "../accounts/caller.ts";
import type { Db } from "../db/database.ts";
import { markUnreachable, recordHeartbeat, type HostRow, type Told } from "../db/hosts.ts";
import { emit } from "../events/outbox.ts";
import type { HostInfo } from "./host-info.ts";
import type { HostLink } from "./host-link.ts";

/** A clock that differs by more than this in `ms` confuses times in logs and events; certificates tolerate minutes */
const clockOffsetMsMax = 5 * second;

export interface HeartbeatTimes {
  /** Between two heartbeats of a host */
  readonly heartbeatMs: number;
  /** From a heartbeat until the host counts as unreachable */
  readonly leaseMs: number;
}

export interface HeartbeatsDependencies {
  readonly db: Db;
  readonly times: HeartbeatTimes;
  readonly log: Logger;
  readonly now: () => Date;
}

/**
 * Leases of hosts. A heartbeat renews one; when it ends the host is called unreachable, by whichever control plane sees it first, and that is all: what
 * runs there goes on, and what is recorded of it stays.
 */
export class Heartbeats {
  readonly #deps: HeartbeatsDependencies;
  readonly #clocksTold = new Set<string>();

  constructor(deps: HeartbeatsDependencies) {
    this.#deps = deps;
  }

  get times(): HeartbeatTimes {
    return this.#deps.times;
  }

  /** Undefined when there is no such host any more. */
  async beat(hostId: string, body: HeartbeatBody): Promise<HeartbeatAnswer | undefined> {
    const now = this.#deps.now();
    const clockOffsetMs = Math.round(Date.parse(body.time) - now.getTime());
    const { address, description, load, health } = body;
    const row = await this.#record(hostId, { address, description, load, health, clockOffsetMs }, now);
    if (row === undefined) return undefined;
    this.#tellClock(row, clockOffsetMs);
    const { heartbeatMs, leaseMs } = this.#deps.times;
    return { wanted: wantedOf(row), heartbeat_sec: heartbeatMs / second, lease_sec: leaseMs / second, time: now.toISOString() };
  }

  /** A host in this process: it has no clock and no way of its own, so that it answers is its heartbeat. */
  async beatFor(hostId: string, info: HostInfo): Promise<void> {
    const { memory_free_mb, disk_free_mb, cpu_load, sandbox_count, memory_fingerprint: _, ...description } = info;
    const load = { memory_free_mb, disk_free_mb, cpu_load, sandbox_count };
    await this.#record(hostId, { description, load, health: { is_healthy: true, problems: [] }, clockOffsetMs: 0 }, this.#deps.now());
  }

  /** Renews the lease of a host in this process for as long as that answers. */
  async runFor(link: HostLink, signal: AbortSignal): Promise<void> {
    const loop = new ServiceLoop("heartbeat", this.#deps.log.child({ hostId: link.id }), signal);
    await loop.every(this.#deps.times.heartbeatMs, async () => this.beatFor(link.id, (await link.describe()).info));
  }

  /** Looks for leases that have ended. Those that ended while no control plane listened say nothing of their hosts: these get the time of a lease first. */
  async runMonitor(signal: AbortSignal): Promise<void> {
    const loop = new ServiceLoop("host leases", this.#deps.log, signal);
    await loop.sleep(this.#deps.times.leaseMs);
    await loop.every(Math.max(second, this.#deps.times.heartbeatMs / 2), async () => this.monitor());
  }

  /** One look; who was called unreachable by it. */
  async monitor(): Promise<readonly string[]> {
    const now = this.#deps.now();
    const ended = await this.#deps.db.transaction().execute(async (transaction) => {
      const rows = await markUnreachable(transaction, now);
      for (const row of rows) {
        await tellOf(transaction, row, "host.unreachable", `host ${row.name} was not heard of for too long; its sandboxes go on`, now);
      }
      return rows;
    });
    for (const row of ended) this.#deps.log.warn({ hostId: row.id, timeLastSeen: row.time_last_seen }, "the host is unreachable");
    return ended.map((row) => row.id);
  }

  async #record(hostId: string, told: Told, now: Date): Promise<HostRow | undefined> {
    const leaseEnds = new Date(now.getTime() + this.#deps.times.leaseMs);
    const outcome = await this.#deps.db.transaction().execute(async (transaction) => {
      const recorded = await recordHeartbeat(transaction, hostId, told, now, leaseEnds);
      if (recorded?.wasUnreachable === true) await tellOf(transaction, recorded.row, "host.back", `host ${recorded.row.name} is back`, now);
      return recorded;
    });
    if (outcome?.wasUnreachable === true) this.#deps.log.info({ hostId }, "the host is back");
    return outcome?.row;
  }

  /** Once per time that it goes wrong. */
  #tellClock({ id, name }: HostRow, clockOffsetMs: number): void {
    if (Math.abs(clockOffsetMs) <= clockOffsetMsMax) this.#clocksTold.delete(id);
    else if (!this.#clocksTold.has(id)) {
      this.#clocksTold.add(id);
      this.#deps.log.warn({ hostId: id, name, clockOffsetMs }, "the host's clock is not the control plane's; synchronize both (NTP)");
    }
  }
}

function wantedOf({ state }: HostRow): WantedHostState {
  return state === "pending" ? "ready" : state;
}

async function tellOf(transaction: Db, row: HostRow, kind: "host.unreachable" | "host.back", message: string, time: Date): Promise<void> {
  const { actor } = systemCaller("");
  await emit(transaction, { kind, teamId: row.team_id, subject: { kind: "host", id: row.id }, actor, message, time });
}
