import {
  PlatformError,
  statsRanges,
  usageDaysMax,
  usageRowsMax,
  type EventKind,
  type Stats,
  type StatsQuery,
  type Usage as UsageAnswer,
  type UsageQuery,
} from "@roost/contract";
import { hour, second } from "@roost/kit";

import type { Db } from "../db/database.ts";
import type { NewEvent } from "../db/events.ts";
import { loadNow, loadSteps, splitInterval, totalUsage, usageBy, type Load, type LoadStep, type Span } from "../db/usage.ts";

const day = 24 * hour;
const daysDefault = 30;

/** What hosts tell of a sandbox besides its state, and what it did then. */
const stateAfter: Partial<Record<EventKind, "running" | "paused">> = {
  "sandbox.paused": "paused",
  "sandbox.auto_paused": "paused",
  "sandbox.resumed": "running",
  "sandbox.auto_resumed": "running",
  "sandbox.rolled_back": "running",
};

function phaseAfter({ kind, detail }: Pick<NewEvent, "kind" | "detail">): "running" | "paused" | undefined {
  if (kind === "sandbox.vm_lost") return detail["state"] === "paused" ? "paused" : undefined;
  return stateAfter[kind];
}

/** What teams use, computed from the intervals in which their sandboxes ran or were paused. */
export class Usage {
  readonly #db: Db;
  readonly #now: () => Date;

  constructor(db: Db, now: () => Date = () => new Date()) {
    this.#db = db;
    this.#now = now;
  }

  async get(teamId: string, query: UsageQuery): Promise<UsageAnswer> {
    const span = this.#spanOf(query);
    const limit = query.group === "day" ? usageDaysMax + 1 : usageRowsMax;
    const [total, rows] = [await totalUsage(this.#db, teamId, span), await usageBy(this.#db, teamId, span, query.group, limit + 1)];
    return {
      from: span.from.toISOString(),
      to: span.to.toISOString(),
      group: query.group,
      total,
      rows: rows.slice(0, limit),
      is_complete: rows.length <= limit,
    };
  }

  async stats(teamId: string, { range }: StatsQuery): Promise<Stats> {
    const { rangeSec, stepSec } = statsRanges[range];
    const to = this.#now();
    const span = { from: new Date(to.getTime() - rangeSec * second), to };
    const changes = await loadSteps(this.#db, teamId, span, stepSec);
    const { steps, peaks } = seriesOf(changes, Math.ceil(rangeSec / stepSec));
    return {
      range,
      now: await loadNow(this.#db, teamId),
      peaks,
      series: steps.map((load, index) => ({ time: new Date(span.from.getTime() + index * stepSec * second).toISOString(), ...load })),
    };
  }

  /** A host told of a pause or resume that may have happened while nobody listened. */
  async happened(event: Pick<NewEvent, "kind" | "sandboxId" | "hostId" | "time" | "detail">): Promise<void> {
    const { sandboxId, hostId, time } = event;
    const state = phaseAfter(event);
    if (state === undefined || sandboxId === null || time > this.#now()) return;
    await splitInterval(this.#db, { sandboxId, hostId, state, time });
  }

  #spanOf(query: UsageQuery): Span {
    const now = this.#now();
    const asked = query.to === undefined ? now : new Date(query.to);
    const to = asked > now ? now : asked;
    const from = query.from === undefined ? new Date(to.getTime() - daysDefault * day) : new Date(query.from);
    if (from >= asked) throw new PlatformError("request_invalid", `from: ${from.toISOString()} is not before ${asked.toISOString()}`);
    if (asked.getTime() - from.getTime() > usageDaysMax * day) {
      throw new PlatformError("request_invalid", `from: at most ${usageDaysMax} days at once; ask for parts of the time`);
    }
    return { from, to: from > to ? from : to };
  }
}

/** The most in each step: of what it began with, and what it changed to. */
function seriesOf(changes: readonly LoadStep[], count: number): { readonly steps: Load[]; readonly peaks: Load } {
  let last: Load = { running: 0, vcpus: 0, memory_mb: 0 };
  let next = 0;
  const follow = (step: number): Load => {
    let most = last;
    for (let change = changes[next]; change !== undefined && change.step <= step; change = changes[next]) {
      most = mostOf(most, change);
      last = { running: change.last_running, vcpus: change.last_vcpus, memory_mb: change.last_memory_mb };
      if (change.step < 0) most = last;
      next += 1;
    }
    return most;
  };
  follow(-1);
  const steps = Array.from({ length: count }, (_, index) => follow(index));
  return { steps, peaks: steps.reduce(mostOf, { running: 0, vcpus: 0, memory_mb: 0 }) };
}

function mostOf(one: Load, other: Load): Load {
  return {
    running: Math.max(one.running, other.running),
    vcpus: Math.max(one.vcpus, other.vcpus),
    memory_mb: Math.max(one.memory_mb, other.memory_mb),
  };
}
