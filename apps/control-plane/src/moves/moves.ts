import { randomUUID } from "node:crypto";

import { errorCatalogue, hostTakesSandboxes, PlatformError } from "@roost/contract";
import { hour, second, ServiceLoop, type Logger } from "@roost/kit";

import { systemCaller } from "../accounts/caller.ts";
import type { Database, Db } from "../db/database.ts";
import {
  claimMoves,
  commitMove,
  deleteMove,
  findMove,
  listMovesFrom,
  listToMove,
  noteMoveProblem,
  releaseMove,
  releaseMoves,
  restoreExpiry,
  turnMove,
  undoMove,
  type MoveRow,
} from "../db/moves.ts";
import { findHost, type HostRow } from "../db/hosts.ts";
import { lockHost } from "../db/reservations.ts";
import { findSandboxOfAnyTeam, type SandboxRow } from "../db/sandboxes.ts";
import { emit } from "../events/outbox.ts";
import { callTimeoutMs, destroyTimeoutMs, saveTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import type { Hosts } from "../hosts/hosts.ts";
import { observedFrom } from "../hosts/observed.ts";
import type { Lifecycle } from "../sandboxes/lifecycle.ts";
import type { NetworkSecrets } from "../sandboxes/network-secrets.ts";
import type { SandboxRecords } from "../sandboxes/records.ts";
import type { Destinations } from "./destinations.ts";
import { relay } from "./relay.ts";

/** Time between two looks at what is to be moved in `ms` when nobody pokes */
const intervalMs = 5 * second;
/** A control plane that has not renewed its claim for this long in `ms` is gone: another one goes on */
const claimMs = 30 * second;
/** Moves of one host, or at work in one control plane, at the same time: each reads gigabytes from the same disk */
const movesAtOnce = 2;
/** Wait in `ms` before what failed is tried again */
const retryMs = 15 * second;
/** A sandbox that could not be started where it was moved to is left saved there after so long, in `ms` */
const resumeTriesMs = 1 * hour;

/** What is done, in order; tests end a control plane after each. */
export type MoveStep =
  | "recorded"
  | "paused"
  | "held"
  | "copied"
  | "completed"
  | "moved"
  | "settled"
  | "left"
  | "resumed"
  | "undone"
  | "released";

export interface MovesDependencies {
  readonly database: Database;
  readonly hosts: Hosts;
  readonly records: SandboxRecords;
  readonly lifecycle: Lifecycle;
  readonly destinations: Destinations;
  readonly secrets: NetworkSecrets;
  readonly log: Logger;
  readonly now: () => Date;
  /** Called and awaited after each step; what it throws ends the work there. For tests. */
  readonly onStep?: (step: MoveStep, sandboxId: string) => Promise<void> | void;
}

/** It is not to be, for now. The reason is for operators. */
class GivenUp extends Error {
  override readonly name = "GivenUp";
}

/**
 * Moves saved sandboxes, and such that run, between hosts: paused, copied, and resumed where they are then. A reconciler over rows of `sandbox_move`, so that it goes on wherever it was
 * when a control plane or a host agent ends; everything it asks of hosts can be asked twice.
 *
 *     row (and room) ─▶ paused ─▶ source holds it still ─▶ copied, verified ─▶ destination has it, held still
 *                                                                                │
 *                    one transaction: the record's host, `sandbox.moved` ◀───────┘     before: undone · after: only forward
 *                                   └─▶ destination lets go ─▶ source removes its copy ─▶ resumed ─▶ row removed
 *
 * Whose the sandbox is, is what its record says, at each moment, and it is written once. Both copies are held still until then, durably (host agent, move/transit.ts), so at no moment two hosts may
 * start it, and at none it is nowhere. What a host holds for a move that is not recorded any more the reconciler of that host lets go or removes, by the record.
 */
export class Moves {
  readonly #deps: MovesDependencies;
  readonly #who = randomUUID();
  readonly #tasks = new Map<string, Promise<void>>();
  /** Why a sandbox could not be moved, and when that may be tried again; by sandbox */
  readonly #problems = new Map<string, { readonly text: string; readonly next: Date; readonly hostId: string }>();
  #loop: ServiceLoop | undefined;

  constructor(deps: MovesDependencies) {
    this.#deps = deps;
  }

  get #db(): Db {
    return this.#deps.database.db;
  }

  poke(): void {
    this.#loop?.poke();
  }

  async run(signal: AbortSignal): Promise<void> {
    this.#loop = new ServiceLoop("moves of sandboxes", this.#deps.log, signal);
    await this.#loop.every(intervalMs, async () => this.round(signal));
    await this.idle();
    await releaseMoves(this.#db, this.#who).catch((error: unknown) =>
      this.#deps.log.info({ err: error }, "claims of moves end by themselves"),
    );
  }

  /** Resolves when nothing is worked at here. */
  async idle(): Promise<void> {
    await Promise.all(this.#tasks.values());
  }

  /** Claims what is to be done, and begins with what nobody here works at. */
  async round(signal: AbortSignal): Promise<void> {
    const now = this.#deps.now();
    for (const move of await claimMoves(this.#db, this.#who, now, new Date(now.getTime() + claimMs), movesAtOnce)) {
      if (this.#tasks.has(move.sandbox_id) || signal.aborted || this.#tasks.size >= movesAtOnce) continue;
      const task = this.work(move, signal).finally(() => {
        this.#tasks.delete(move.sandbox_id);
        this.#loop?.poke();
      });
      this.#tasks.set(move.sandbox_id, task);
    }
  }

  /**
   * Begins to move what is on a host that is to be emptied, a few at a time. Answers what keeps some of it there; null: nothing does. What has no other place is left as it is: one that
   * runs runs on.
   */
  async moveAway(host: HostRow, signal: AbortSignal): Promise<string | null> {
    const moves = await listMovesFrom(this.#db, host.id);
    const known = new Set(moves.map((move) => move.sandbox_id));
    let count = moves.filter(({ step }) => step !== "undone").length;
    const now = this.#deps.now();
    const problems = moves.flatMap((move) => (move.problem === null ? [] : [`sandbox ${move.sandbox_id}: ${move.problem}`]));
    const present = await listToMove(this.#db, host.id);
    const ids = new Set(present.map((sandbox) => sandbox.id));
    for (const [id, { hostId }] of this.#problems) if (hostId === host.id && !ids.has(id)) this.#problems.delete(id);
    for (const sandbox of present) {
      if (signal.aborted) break;
      const problem = this.#problems.get(sandbox.id);
      if (problem !== undefined) problems.push(`sandbox ${sandbox.id}: ${problem.text}`);
      const isReady = ["running", "paused", "failed"].includes(sandbox.state);
      if (known.has(sandbox.id) || !isReady || (problem !== undefined && problem.next > now)) continue;
      if (count >= movesAtOnce) continue;
      const found = await this.#deps.destinations.begin(sandbox, now);
      if (found.kind === "begun") {
        count += 1;
        this.#problems.delete(sandbox.id);
      } else if (found.kind === "nowhere") this.#note(sandbox.id, host.id, found.why);
    }
    if (count > 0) this.poke();
    const [first, ...others] = problems;
    return first === undefined ? null : others.length === 0 ? first : `${first} (and ${others.length} more)`;
  }

  /** Goes on with a move until it is done or nothing can be done now. */
  async work(move: MoveRow, signal: AbortSignal): Promise<void> {
    const { log } = this.#deps;
    const about = { sandboxId: move.sandbox_id, from: move.from_host_id, to: move.to_host_id };
    try {
      for (let seen: MoveRow | undefined = move; seen !== undefined && !signal.aborted; seen = await findMove(this.#db, move.move_id)) {
        if (seen.step === "copying") await this.#copy(seen, signal);
        else if (seen.step === "moved") return await this.#goForward(seen, signal);
        else return await this.#goBack(seen);
      }
    } catch (error) {
      if (signal.aborted) return;
      log.warn({ err: error, ...about }, "a move of a sandbox did not get on; it is tried again");
      await this.#later(move).catch((failure: unknown) => log.info({ err: failure }, "its claim ends by itself"));
    }
  }

  /** Copies it and decides: afterwards it is moved, or undone. */
  async #copy(move: MoveRow, signal: AbortSignal): Promise<void> {
    const { log, hosts, records, secrets } = this.#deps;
    try {
      await this.#step("recorded", move);
      const from = hosts.get(move.from_host_id);
      const to = hosts.get(move.to_host_id);
      const saved = await this.#save(move, from, signal);
      await this.#step("paused", move);
      const request = { sandboxId: move.sandbox_id, moveId: move.move_id, revision: BigInt(saved.generation) };
      const held = await from.call(() => from.client.beginDeparture(request, { timeoutMs: saveTimeoutMs, signal }));
      const heldAs = observedFrom(held.sandbox, from.id);
      await records.observe(heldAs);
      await this.#step("held", move);
      if (held.parcel === undefined) throw new PlatformError("internal", "the sandbox's host does not say what it consists of");
      const sandbox = await records.ofAnyTeam(move.sandbox_id);
      const network = secrets.open(sandbox.network, sandbox.id);
      const { attemptId, bytes } = await relay({ moveId: move.move_id, sandbox, network, parcel: held.parcel, from, to, signal });
      await this.#step("copied", move);
      const asked = { sandboxId: move.sandbox_id, moveId: move.move_id, attemptId };
      const answer = await to.call(() => to.client.completeArrival(asked, { timeoutMs: saveTimeoutMs, signal }));
      const arrived = observedFrom(answer.sandbox, to.id);
      await this.#step("completed", move);
      await this.#commit(move, { from: heldAs.generation, generation: arrived.generation, network: sandbox.network });
      log.info({ sandboxId: move.sandbox_id, from: from.id, to: to.id, bytes }, "a sandbox was moved to another host");
      await this.#step("moved", move);
    } catch (error) {
      if (signal.aborted || !(error instanceof PlatformError || error instanceof GivenUp)) throw error;
      log.warn({ err: error, sandboxId: move.sandbox_id, from: move.from_host_id, to: move.to_host_id }, "a sandbox could not be moved");
      const next = new Date(this.#deps.now().getTime() + retryMs);
      if (!(await undoMove(this.#db, move.move_id, error.message, next))) return; // it was decided elsewhere
      if (error instanceof PlatformError) this.#deps.destinations.refused(move, error);
      await this.#step("undone", move);
    }
  }

  /** Has it paused, where it runs. */
  async #save(move: MoveRow, from: HostLink, signal: AbortSignal): Promise<SandboxRow> {
    const { records } = this.#deps;
    const row = await findSandboxOfAnyTeam(this.#db, move.sandbox_id);
    if (row === undefined || row.state === "stopped" || row.time_delete_requested !== null || row.host_id !== move.from_host_id) {
      throw new GivenUp("it is not there any more");
    }
    if (!(await this.#isLeaving(move))) throw new GivenUp("its host is to keep it");
    if (row.state === "paused" || row.state === "failed") return row;
    if (row.state !== "running") throw new GivenUp(`it is ${row.state}`);
    const reason = "it is being moved to another host";
    const request = { sandboxId: row.id, revision: BigInt(row.generation), memory: true, reason };
    const answer = await from.call(() => from.client.pauseSandbox(request, { timeoutMs: saveTimeoutMs, signal }));
    await records.observe(observedFrom(answer.sandbox, from.id));
    return records.ofAnyTeam(row.id);
  }

  async #isLeaving({ from_host_id: id }: MoveRow): Promise<boolean> {
    const host = await findHost(this.#db, id);
    return host?.state === "draining" && host.drain_mode === "move";
  }

  async #commit(move: MoveRow, copied: Parameters<typeof commitMove>[2]): Promise<void> {
    const { actor } = systemCaller("");
    const row = await this.#db.transaction().execute(async (transaction) => {
      const to = await lockHost(transaction, move.to_host_id); // from here on it cannot be deleted
      if (to === undefined || !hostTakesSandboxes(to.state)) throw new GivenUp("the host that it was to be moved to takes none any more");
      const moved = await commitMove(transaction, move, copied, this.#deps.now());
      if (moved === undefined) throw new GivenUp("it was changed or ended while it was copied"); // and nothing is written
      await emit(transaction, {
        kind: "sandbox.moved",
        teamId: moved.team_id,
        subject: { kind: "sandbox", id: moved.id },
        actor,
        message: "sandbox was moved to another host",
        detail: { from: move.from_host_id, to: move.to_host_id },
        time: this.#deps.now(),
      });
      return moved;
    });
    this.#deps.records.endConnections(row.id);
    this.#deps.records.changedHere(row.id);
  }

  /** It is the new host's: what is left is to let it go on there, and to remove what the old one has. */
  async #goForward(move: MoveRow, signal: AbortSignal): Promise<void> {
    const { hosts, records } = this.#deps;
    const request = { sandboxId: move.sandbox_id, moveId: move.move_id };
    const row = await findSandboxOfAnyTeam(this.#db, move.sandbox_id);
    const isThere = row !== undefined && row.state !== "stopped" && row.host_id === move.to_host_id;
    if (isThere) {
      const to = hosts.get(move.to_host_id);
      const answer = await to.call(() => to.client.endMove({ ...request, stays: true }, { timeoutMs: callTimeoutMs, signal }));
      if (answer.sandbox !== undefined) await records.observe(observedFrom(answer.sandbox, to.id));
    }
    await this.#step("settled", move);
    await this.#letGo(move.from_host_id, { ...request, stays: false });
    await this.#step("left", move);
    const to = await findHost(this.#db, move.to_host_id);
    if (isThere && move.resumes && to?.state === "draining") return turnMove(this.#db, move); // now that one is emptied, too
    if (isThere) await this.#resume(move);
    await this.#step("resumed", move);
    await deleteMove(this.#db, move.move_id);
  }

  /** It stays where it was. What ran there goes on elsewhere after all, or there once its host may start it; unless it is only to be paused. */
  async #goBack(move: MoveRow): Promise<void> {
    const { destinations, hosts, now } = this.#deps;
    const request = { sandboxId: move.sandbox_id, moveId: move.move_id };
    await this.#letGo(move.to_host_id, { ...request, stays: false });
    await this.#letGo(move.from_host_id, { ...request, stays: true });
    await this.#step("released", move);
    const row = await findSandboxOfAnyTeam(this.#db, move.sandbox_id);
    const isSaved = row?.state === "paused" && row.time_delete_requested === null && row.host_id === move.from_host_id;
    const host = await findHost(this.#db, move.from_host_id);
    const isDraining = host?.state === "draining";
    const isOver = host === undefined || (isDraining && host.drain_mode !== "move"); // saved is what it is to be
    const isDue = move.time_next <= now();
    if (isSaved && move.resumes && !isOver && isDraining) {
      const found = isDue ? await destinations.again(row, move, now()) : undefined;
      if (found?.kind === "nowhere") await noteMoveProblem(this.#db, move.move_id, found.why);
      if (found?.kind !== "begun") await this.#later(move);
    } else if (!isSaved || !move.resumes || isOver) {
      if (isSaved && isDraining && !isDue) return this.#later(move); // until then it says why
      await deleteMove(this.#db, move.move_id);
    } else if (hosts.standing(host.id).state === "draining") await this.#later(move); // this control plane has not read yet that it is not
    else {
      await this.#resume(move);
      await deleteMove(this.#db, move.move_id);
    }
  }

  async #later({ move_id: moveId }: MoveRow): Promise<void> {
    await releaseMove(this.#db, moveId, this.#who, new Date(this.#deps.now().getTime() + retryMs));
  }

  /** What cannot be reached is done by that host's reconciler when it is back. */
  async #letGo(hostId: string, request: { readonly sandboxId: string; readonly moveId: string; readonly stays: boolean }): Promise<void> {
    const { hosts, log, records } = this.#deps;
    try {
      const host = hosts.get(hostId);
      const answer = await host.call(() => host.client.endMove(request, { timeoutMs: destroyTimeoutMs }));
      if (answer.sandbox !== undefined) await records.observe(observedFrom(answer.sandbox, hostId));
    } catch (error) {
      if (!(error instanceof PlatformError)) throw error;
      log.warn({ err: error, hostId, ...request }, "a host that a move is over for could not be told; its reconciler does it");
    }
  }

  /** What ran before runs again, with the time that it had. */
  async #resume({ move_id: moveId }: MoveRow): Promise<void> {
    const { lifecycle, log, records, now } = this.#deps;
    const move = await findMove(this.#db, moveId); // somebody may have asked for a pause meanwhile
    if (move?.resumes !== true) return;
    const row = await findSandboxOfAnyTeam(this.#db, move.sandbox_id);
    if (row === undefined || (row.state !== "paused" && row.state !== "resuming")) return;
    try {
      await lifecycle.start(row, { memory: true });
      const restored = await restoreExpiry(this.#db, move);
      if (restored !== undefined) records.written(restored);
    } catch (error) {
      const isPassing = error instanceof PlatformError && errorCatalogue[error.code].retryable;
      if (isPassing && now().getTime() - move.time_started.getTime() < resumeTriesMs) throw error;
      log.warn({ err: error, sandboxId: row.id }, "a sandbox that was moved could not be resumed; it stays saved");
    }
  }

  #note(sandboxId: string, hostId: string, text: string): void {
    this.#problems.set(sandboxId, { text, hostId, next: new Date(this.#deps.now().getTime() + retryMs) });
  }

  async #step(step: MoveStep, { sandbox_id: sandboxId }: MoveRow): Promise<void> {
    await this.#deps.onStep?.(step, sandboxId);
  }
}
