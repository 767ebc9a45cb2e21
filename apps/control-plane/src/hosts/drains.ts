import { randomUUID } from "node:crypto";

import { PlatformError } from "@roost/contract";
import { second, ServiceLoop, type Logger } from "@roost/kit";

import { systemCaller } from "../accounts/caller.ts";
import type { Db } from "../db/database.ts";
import {
  claimDrains,
  countOn,
  isDraining,
  listActiveOn,
  markDrained,
  noteDrainProblem,
  releaseDrains,
  type ActiveSandbox,
} from "../db/host-drains.ts";
import { listTemplatesOnlyOn, type HostRow } from "../db/hosts.ts";
import { emit } from "../events/outbox.ts";
import { saveTimeoutMs } from "./host-link.ts";
import type { Hosts } from "./hosts.ts";

/** Time between two rounds in `ms` when nobody pokes */
const intervalMs = 5 * second;
/** A control plane that has not renewed its claim for this long in `ms` is gone: another one goes on */
const claimMs = 30 * second;
/** Sandboxes of one host that are paused at the same time: each writes its memory to the same disk */
const pausesAtOnce = 3;
/** Kept of why one could not be paused, in characters */
const problemLengthMax = 512;

export interface DrainsDependencies {
  readonly db: Db;
  readonly hosts: Hosts;
  /** Begins to move what is on a host to others; answers what keeps some of it there. Absent: there is nobody who could */
  readonly moveAway?: (row: HostRow, signal: AbortSignal) => Promise<string | null>;
  readonly log: Logger;
  readonly now: () => Date;
}

/**
 * Empties hosts that are being drained: a reconciler over the hosts' rows, so that a drain goes on wherever it was when a control plane ends. Of several control planes one
 * works at a host (a claim in its row); what it does can be done twice without harm. Each host has a task of its own.
 *
 * What is to be moved is begun here, a few at a time, and done by ../moves/moves.ts. Sandboxes of builds are not paused: their build would fail of it, and is over soon. What runs there again (nothing should: placement and resume
 * refuse) is paused in the next round.
 */
export class Drains {
  readonly #deps: DrainsDependencies;
  readonly #who = randomUUID();
  readonly #tasks = new Map<string, Promise<void>>();
  #loop: ServiceLoop | undefined;

  constructor(deps: DrainsDependencies) {
    this.#deps = deps;
  }

  poke(): void {
    this.#loop?.poke();
  }

  async run(signal: AbortSignal): Promise<void> {
    const { db, log } = this.#deps;
    this.#loop = new ServiceLoop("host drains", log, signal);
    await this.#loop.every(intervalMs, async () => this.round(signal));
    await Promise.all(this.#tasks.values());
    await releaseDrains(db, this.#who).catch((error: unknown) => log.info({ err: error }, "claims of drains end by themselves"));
  }

  /** Claims what is to be done, and begins with what nobody here works at. */
  async round(signal: AbortSignal): Promise<void> {
    const now = this.#deps.now();
    for (const row of await claimDrains(this.#deps.db, this.#who, now, new Date(now.getTime() + claimMs))) {
      if (this.#tasks.has(row.id) || signal.aborted) continue;
      const task = this.drainOnce(row, signal)
        .catch((error: unknown) => {
          if (!signal.aborted) this.#deps.log.warn({ err: error, hostId: row.id }, "a round of a host's drain failed");
        })
        .finally(() => this.#tasks.delete(row.id));
      this.#tasks.set(row.id, task);
    }
  }

  /** Pauses what runs on the host, as it is to be drained, and notices when nothing runs any more. */
  async drainOnce(row: HostRow, signal: AbortSignal): Promise<void> {
    const { db } = this.#deps;
    if (row.drain_mode === "move") return this.#moveAway(row, signal);
    const active = await listActiveOn(db, row.id);
    if (active.length === 0) return this.#drained(row);
    if (row.drain_mode === "wait") return;
    const waiting = active.filter((sandbox) => sandbox.state === "running" && sandbox.for_build_id === null);
    let problem: string | null = null;
    const next = async (): Promise<void> => {
      for (let sandbox = waiting.shift(); sandbox !== undefined; sandbox = waiting.shift()) {
        if (signal.aborted || !(await isDraining(db, row))) return;
        problem = (await this.#pause(row, sandbox, signal)) ?? problem;
      }
    };
    await Promise.all(Array.from({ length: pausesAtOnce }, next));
    if (!signal.aborted) await noteDrainProblem(db, row, problem);
  }

  /** It is done when nothing is left on the host, saved sandboxes included, and no copy of what was moved. */
  async #moveAway(row: HostRow, signal: AbortSignal): Promise<void> {
    const { db, moveAway } = this.#deps;
    if ((await countOn(db, row.id)) === 0) return this.#drained(row);
    if (moveAway === undefined || !(await isDraining(db, row))) return;
    const problem = await moveAway(row, signal);
    if (!signal.aborted) await noteDrainProblem(db, row, problem === null ? null : problem.slice(0, problemLengthMax));
  }

  /** Answers why it could not be paused; it is tried again in the next round. */
  async #pause(row: HostRow, sandbox: ActiveSandbox, signal: AbortSignal): Promise<string | undefined> {
    const { hosts, log } = this.#deps;
    const request = { sandboxId: sandbox.id, revision: BigInt(sandbox.generation), memory: true, reason: "its host is being drained" };
    const { sandboxId } = request;
    try {
      const host = hosts.get(row.id);
      // its watch tells what became of it
      await host.call(() => host.client.pauseSandbox(request, { timeoutMs: saveTimeoutMs, signal }));
      log.info({ hostId: row.id, sandboxId }, "paused a sandbox of a host that is being drained");
      return undefined;
    } catch (error) {
      if (signal.aborted || (error instanceof PlatformError && error.code === "sandbox_changed")) return undefined; // the next round sees it as it is
      const message = error instanceof Error ? error.message : String(error);
      log.warn(
        { err: error, hostId: row.id, sandboxId },
        "a sandbox of a host that is being drained could not be paused; it is tried again",
      );
      return `sandbox ${sandboxId}: ${message}`.slice(0, problemLengthMax);
    }
  }

  async #drained(seen: HostRow): Promise<void> {
    if (seen.time_drained !== null) return;
    const now = this.#deps.now();
    const row = await this.#deps.db.transaction().execute(async (transaction) => {
      const drained = await markDrained(transaction, seen, now);
      if (drained === undefined) return undefined;
      const { actor } = systemCaller("");
      const message =
        drained.drain_mode === "move" ? `nothing is left on host ${drained.name}` : `nothing runs on host ${drained.name} any more`;
      await emit(transaction, {
        kind: "host.drained",
        teamId: drained.team_id,
        subject: { kind: "host", id: drained.id },
        actor,
        message,
        ...(drained.drain_mode === "move"
          ? { detail: { templates_only_here: String((await listTemplatesOnlyOn(transaction, drained.id)).length) } }
          : {}),
        time: now,
      });
      return drained;
    });
    if (row !== undefined) this.#deps.log.info({ hostId: row.id }, "the host is drained");
  }
}
