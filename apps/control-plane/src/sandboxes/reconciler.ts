import type { SandboxState } from "@roost/contract";
import { hour, minute, ServiceLoop, Turns, type Logger } from "@roost/kit";

import type { Db } from "../db/database.ts";
import { recordTemplates } from "../db/hosts.ts";
import { listMoveIds, timesLeft } from "../db/moves.ts";
import { listBusySandboxes, listMakersOf } from "../db/operations.ts";
import {
  applyObserved,
  findSandboxesOfAnyTeam,
  listOfHost,
  markLost,
  markStopped,
  type ObservedSandbox,
  type SandboxRow,
} from "../db/sandboxes.ts";
import { forgetStrays, listOverdueStrays, seeStrays } from "../db/strays.ts";
import { callTimeoutMs, createTimeoutMs, destroyTimeoutMs, type HostLink } from "../hosts/host-link.ts";

/** Time between two rounds in `ms` when nobody pokes */
const intervalMs = 1 * minute;
/** How long a host may be at one change of a sandbox in `ms` before it is asked again: its own deadlines are shorter */
const stuckMs = 15 * minute;
/** How long a sandbox that nothing explains is left alone in `ms`: time to notice that a database was restored from a copy that is too old */
export const strayGraceMsDefault = 24 * hour;
/** Calls to the host at once */
const callsAtOnce = 8;

/** States that a host leaves by itself. */
const changing: ReadonlySet<SandboxState> = new Set(["creating", "pausing", "resuming", "snapshotting", "stopping"]);

export interface ReconcilerDependencies {
  readonly db: Db;
  readonly host: HostLink;
  /** Whether no other process creates sandboxes on this database. */
  readonly isExclusive: boolean;
  /** Called after a record changed to an end. */
  readonly onEnded: (sandboxId: string) => void;
  readonly strayGraceMs?: number;
  readonly log: Logger;
  readonly now?: () => Date;
}

/**
 * Makes records and one host agree, whatever was missed: takes no input, reads both sides, acts on the difference. ARCHITECTURE.md has its rules in a table.
 *
 * The host is right about what it has. Records are read *before* the host is asked, then which sandboxes operations are at work on, which are left alone; and every write is guarded
 * by what was read (generation and state), so a record that changed after the listing is left alone, too. That makes two control planes at once safe without a lock: the slower one
 * of two that act on the same difference changes nothing. A host that does not answer is no news: nothing is written.
 */
export class Reconciler {
  readonly #deps: ReconcilerDependencies;
  readonly #log: Logger;
  #loop: ServiceLoop | undefined;

  constructor(deps: ReconcilerDependencies) {
    this.#deps = deps;
    this.#log = deps.log.child({ hostId: deps.host.id });
  }

  /** Does the next round now. */
  poke(): void {
    this.#loop?.poke();
  }

  async run(signal: AbortSignal): Promise<void> {
    const loop = new ServiceLoop("reconciler", this.#log, signal);
    this.#loop = loop;
    await loop.every(intervalMs, async () => this.reconcile());
  }

  /** One round. */
  async reconcile(): Promise<void> {
    const { db, host } = this.#deps;
    const recorded = await listOfHost(db, host.id);
    const busy = await listBusySandboxes(db);
    const listed = new Map((await host.listSandboxes()).map((sandbox) => [sandbox.id, sandbox]));
    const now = this.#deps.now?.() ?? new Date(); // after the host's word: of what it says nothing is yet to come

    const inTransit = await this.#endStaleMoves([...listed.values()]);
    const known = new Map(recorded.map((row) => [row.id, row]));
    const unknown: ObservedSandbox[] = [];
    for (const sandbox of listed.values()) {
      const row = known.get(sandbox.id);
      if (row === undefined && inTransit.has(sandbox.id)) continue;
      if (row === undefined) unknown.push(sandbox);
      else if (row.generation < sandbox.generation || row.time_lost !== null) await applyObserved(db, sandbox, now);
    }
    for (const row of recorded) {
      if (!listed.has(row.id) && !busy.has(row.id) && !this.#mayYetAppear(row, now)) await this.#recordAbsence(row, now);
    }
    const calls = recorded.flatMap((row) => {
      const sandbox = listed.get(row.id);
      return sandbox === undefined || busy.has(row.id) ? [] : [async () => this.#finish(row, sandbox, now)];
    });
    const unwanted = await this.#unwanted(unknown, now);
    await this.#each([...calls, ...unwanted.map((id) => async () => this.#end(id))]);

    const description = await host.describe(0);
    await recordTemplates(db, host.id, description.templates);
  }

  /**
   * Ends what a host holds for moves that are not recorded (any more), as the sandbox's record says: it is this host's, and goes on here; or it is not. What moves that are recorded hold is theirs.
   * Those are read after the host was asked, because a move is recorded before any host hears of it. Answers all that were held.
   */
  async #endStaleMoves(listed: readonly ObservedSandbox[]): Promise<ReadonlySet<string>> {
    const held = listed.flatMap(({ id, transit }) => (transit === undefined ? [] : [{ id, moveId: transit.moveId }]));
    if (held.length === 0) return new Set();
    const { db, host } = this.#deps;
    const moves = await listMoveIds(db);
    const stale = held.filter(({ moveId }) => !moves.has(moveId));
    const records = new Map(
      (
        await findSandboxesOfAnyTeam(
          db,
          stale.map(({ id }) => id),
        )
      ).map((row) => [row.id, row]),
    );
    const calls = stale.flatMap(({ id, moveId }) => {
      const row = records.get(id);
      if (row === undefined) return []; // nothing explains it: a stray
      const stays = row.host_id === host.id && row.state !== "stopped";
      this.#log.warn({ sandboxId: id, moveId, stays }, "ending a move that is over, or was never to be");
      return [
        async () => void (await host.call(() => host.client.endMove({ sandboxId: id, moveId, stays }, { timeoutMs: destroyTimeoutMs }))),
      ];
    });
    await this.#each(calls);
    return new Set(held.filter(({ id, moveId }) => moves.has(moveId) || records.has(id)).map(({ id }) => id));
  }

  /** Does all of them; one that fails is tried again in the next round, and keeps no other from being done. */
  async #each(calls: readonly (() => Promise<void>)[]): Promise<void> {
    const turns = new Turns(callsAtOnce);
    const failures: unknown[] = [];
    await Promise.all(
      calls.map(async (call) =>
        turns.take(async () => {
          await call().catch((error: unknown) => failures.push(error));
        }),
      ),
    );
    if (failures.length > 0) this.#log.warn({ err: failures[0], count: failures.length }, "some sandboxes could not be brought in order");
  }

  /** A create from before there were operations that is still on its way to the host is no loss. */
  #mayYetAppear(row: SandboxRow, now: Date): boolean {
    if (row.state !== "creating" || this.#deps.isExclusive) return false;
    return now.getTime() - row.time_created.getTime() < createTimeoutMs;
  }

  async #recordAbsence(row: SandboxRow, now: Date): Promise<void> {
    if (row.time_delete_requested !== null || row.state === "stopping") {
      if (await markStopped(this.#deps.db, row.id, "deleted", now, row.host_id)) this.#ended(row, "stopped");
    } else if (row.state !== "failed") {
      const reason =
        row.state === "creating" ? "the control plane ended while it was being created" : "lost by its host: the host no longer knows it";
      if (await markLost(this.#deps.db, row, reason, now)) this.#ended(row, "failed");
    }
  }

  /** Ends what is to be ended, and asks the host once more for what it has been at for too long. */
  async #finish(row: SandboxRow, sandbox: ObservedSandbox, now: Date): Promise<void> {
    if (row.time_delete_requested !== null) {
      await this.#end(row.id);
      if (await markStopped(this.#deps.db, row.id, "deleted", now)) this.#ended(row, "stopped");
      return;
    }
    const isStuck =
      changing.has(sandbox.state) && sandbox.generation === row.generation && now.getTime() - row.time_state_updated.getTime() >= stuckMs;
    if (!isStuck) return;
    const { host } = this.#deps;
    this.#log.warn({ sandboxId: row.id, state: sandbox.state }, "a host has been at this for too long; asking it again");
    const request = { sandboxId: row.id, revision: BigInt(sandbox.generation) };
    const options = { timeoutMs: callTimeoutMs };
    if (sandbox.state === "pausing") await host.call(() => host.client.pauseSandbox(request, options));
    else if (sandbox.state === "resuming") await host.call(() => host.client.resumeSandbox(request, options));
    else if (sandbox.state !== "snapshotting") await this.#end(row.id); // nobody waits for it to be made, or it is to end anyway
  }

  /** Of sandboxes that have no record here, those that are to be ended. */
  async #unwanted(unknown: readonly ObservedSandbox[], now: Date): Promise<string[]> {
    const { db, host, strayGraceMs = strayGraceMsDefault } = this.#deps;
    const running = unknown.filter((sandbox) => sandbox.state !== "stopped");
    const ids = running.map((sandbox) => sandbox.id);
    const records = new Map((await findSandboxesOfAnyTeam(db, ids)).map((row) => [row.id, row]));
    const makers = await listMakersOf(
      db,
      ids.filter((id) => !records.has(id)),
    );
    const left = await timesLeft(db, host.id, ids);
    const ended: string[] = [];
    const strays: string[] = [];
    for (const sandbox of running) {
      const row = records.get(sandbox.id);
      const maker = makers.find((operation) => operation.made.includes(sandbox.id));
      if (row !== undefined && row.host_id === host.id) {
        // Made since the records were read; or deleted, which the host was not told, or was told before it had it
        if (row.state === "stopped") ended.push(sandbox.id);
        else await applyObserved(db, sandbox, now);
      } else if (row === undefined && maker !== undefined) {
        if (maker.state !== "running") ended.push(sandbox.id); // a create that was undone reached the host after all
      } else if (isMadeAnew(sandbox, left.get(sandbox.id))) {
        ended.push(sandbox.id); // a create came again, late, when the sandbox was elsewhere
      } else strays.push(sandbox.id);
    }
    await forgetStrays(db, host.id, strays);
    const news = await seeStrays(db, host.id, strays, now);
    for (const sandboxId of news)
      this.#log.warn({ sandboxId }, "a sandbox on a host that nothing here explains; it is ended if that stays so");
    const overdue = await listOverdueStrays(db, host.id, new Date(now.getTime() - strayGraceMs));
    for (const sandboxId of overdue) this.#log.warn({ sandboxId }, "ending a sandbox that nothing explains");
    return [...ended, ...overdue];
  }

  async #end(sandboxId: string): Promise<void> {
    const { host } = this.#deps;
    await host.call(() => host.client.destroySandbox({ sandboxId }, { timeoutMs: destroyTimeoutMs }));
  }

  #ended(row: SandboxRow, state: "stopped" | "failed"): void {
    this.#log.warn({ sandboxId: row.id, from: row.state, state }, "record corrected");
    this.#deps.onEnded(row.id);
  }
}

/** Of a sandbox that was moved away: this one was begun since, so it is not what came back and a database from before that does not know of. */
function isMadeAnew({ timeCreated }: ObservedSandbox, timeLeft: Date | undefined): boolean {
  return timeLeft !== undefined && timeCreated > timeLeft;
}
