import { PlatformError, type SandboxState } from "@roost/contract";
import { hour, minute, second, ServiceLoop, unreachable, type Logger } from "@roost/kit";

import type { Database } from "../db/database.ts";
import type { OperationRow } from "../db/operations.ts";
import { listUnsettled, releaseHeldByNobody, settle } from "../db/reservations.ts";
import { findSandboxOfAnyTeam, forgetSandbox, markCreateFailed, requestDeleteOfCreating, type ObservedSandbox } from "../db/sandboxes.ts";
import { callTimeoutMs, createTimeoutMs, destroyTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import { abandonSnapshot, findReadySnapshot } from "../db/snapshots.ts";
import type { Hosts } from "../hosts/hosts.ts";
import type { SandboxRecords } from "../sandboxes/records.ts";
import { claimMs, type Operations } from "./operations.ts";

/** Time between two looks for operations that nobody works at in `ms` */
const intervalMs = 10 * second;
/** Time between two renewals of claims in `ms`: two may be late */
const renewIntervalMs = claimMs / 3;
/** Time between two comparisons of all reservations with records in `ms` */
const settleIntervalMs = 10 * minute;
const forgetIntervalMs = 1 * hour;
/** How long an operation may wait for its host to be reached again in `ms`: then it has failed, and what its host made of it is ended when it is back */
const hostWaitMs = 15 * minute;

/** States in which a sandbox's host is at work on it. */
const changing: ReadonlySet<SandboxState> = new Set(["creating", "pausing", "resuming", "snapshotting", "stopping"]);

/** `done` · what it failed of · `later`: its host cannot say yet */
type Outcome = "done" | "later" | PlatformError;

export interface RecoveryDependencies {
  readonly database: Database;
  readonly operations: Operations;
  readonly records: SandboxRecords;
  readonly hosts: Hosts;
  readonly log: Logger;
}

/**
 * Ends operations that nobody works at any more. It looks at record and host: what the host has made of it is done, what it has nothing of is undone. That is the same
 * whoever died, at whatever step, and however often it is tried.
 */
export class Recovery {
  readonly #deps: RecoveryDependencies;

  constructor(deps: RecoveryDependencies) {
    this.#deps = deps;
  }

  async run(signal: AbortSignal): Promise<void> {
    const { operations, log } = this.#deps;
    await Promise.all([
      new ServiceLoop("claims of operations", log, signal).every(renewIntervalMs, async () => operations.renew()),
      new ServiceLoop("abandoned operations", log, signal).every(intervalMs, async () => this.round()),
      new ServiceLoop("reservations", log, signal).every(settleIntervalMs, async () => this.settleAll()),
      new ServiceLoop("old operations", log, signal).every(forgetIntervalMs, async () => operations.forgetOld()),
    ]);
  }

  /** Takes over what nobody works at. */
  async round(): Promise<void> {
    const { operations, log } = this.#deps;
    const abandoned = await operations.takeOver();
    // Each by itself: a host that hangs keeps nobody but its own
    await Promise.all(
      abandoned.map(async (row) => {
        const operationLog = log.child({ operationId: row.id, kind: row.kind });
        try {
          const outcome = await this.#outcomeOf(row);
          if (outcome === "later") return; // its claim ends by itself
          const ended = await operations.endAs(row, outcome === "done" ? null : outcome);
          if (ended)
            operationLog.info({ outcome: outcome === "done" ? outcome : outcome.code }, "ended an operation that nobody worked at");
        } catch (error) {
          operationLog.warn({ err: error }, "could not end an operation that nobody works at; it is tried again");
        }
      }),
    );
    if (abandoned.length > 0) await releaseHeldByNobody(this.#deps.database.db);
  }

  /** Reservations follow records by themselves; this says so when they do not. */
  async settleAll(): Promise<void> {
    const { db } = this.#deps.database;
    const released = await releaseHeldByNobody(db);
    const unsettled = await listUnsettled(db);
    await settle(db, unsettled);
    if (released > 0 || unsettled.length > 0) this.#deps.log.warn({ released, unsettled }, "reservations were not what the records say");
  }

  async #outcomeOf(row: OperationRow): Promise<Outcome> {
    switch (row.kind) {
      case "sandbox.create":
      case "sandbox.fork": {
        const outcomes = await Promise.all(row.made.map(async (id) => this.#newcomer(id, row)));
        if (outcomes.includes("later")) return "later";
        return outcomes.find((outcome) => outcome === "done") ?? outcomes[0] ?? interrupted();
      }
      case "sandbox.pause":
        return this.#change(row, "paused");
      case "sandbox.resume":
        return this.#change(row, "running");
      case "sandbox.checkpoint":
      case "sandbox.rollback":
        return this.#change(row, null);
      case "build.create":
        // recorded together with its build, so there is one as long as there is its template; it goes on by itself
        return row.made.length > 0 ? "done" : interrupted();
      case "snapshot.create":
        return this.#snapshot(row);
      default:
        return unreachable(row.kind);
    }
  }

  /** One that has its name is done. Else the name is free again: nobody would ever say that it is ready, and what its host may have made is removed there later. */
  async #snapshot({ made: [id], team_id: teamId }: OperationRow): Promise<Outcome> {
    const { db } = this.#deps.database;
    if (id === undefined) return interrupted();
    await abandonSnapshot(db, id);
    return (await findReadySnapshot(db, teamId, id)) === undefined ? interrupted() : "done";
  }

  /** A sandbox that is being made. One that its host knows nothing of is undone: should its create arrive there after all, the reconciler ends it. */
  async #newcomer(id: string, operation: OperationRow): Promise<Outcome> {
    const { database, records, hosts } = this.#deps;
    const { db } = database;
    const row = await findSandboxOfAnyTeam(db, id);
    if (row === undefined) return interrupted();
    if (row.state === "failed") return interrupted(row.failure_reason ?? "");
    if (row.state === "stopped" || row.time_delete_requested !== null) {
      return new PlatformError("create_aborted", `sandbox ${id} was deleted while it was being created`);
    }
    if (row.state !== "creating") return "done";
    let observed: ObservedSandbox | undefined;
    try {
      observed = await hosts.get(row.host_id).getSandbox(id);
    } catch (error) {
      if (!this.#isOlder(operation, hostWaitMs)) return "later";
      if (!(await requestDeleteOfCreating(db, id, records.now()))) return "later";
      await markCreateFailed(db, id, "its host could not be reached while it was being created", records.now());
      return interrupted(error instanceof Error ? error.message : "");
    }
    if (observed === undefined) {
      await forgetSandbox(db, id);
      return interrupted();
    }
    await records.observe(observed);
    if (observed.state !== "creating") return this.#newcomer(id, operation);
    if (!this.#isOlder(operation, createTimeoutMs)) return "later";
    // Decided before the host is told: who made it may be there after all, and is not to say that it runs
    if (!(await requestDeleteOfCreating(db, id, records.now()))) return "later";
    const host = hosts.get(row.host_id);
    await host.call(() => host.client.destroySandbox({ sandboxId: id }, { timeoutMs: destroyTimeoutMs }));
    await forgetSandbox(db, id);
    return interrupted();
  }

  /** A change of a sandbox that was there. `wanted`: the state that says that it is done; null: none does, and doing it again harms nobody. */
  async #change({ subject_id: id, ...operation }: OperationRow, wanted: SandboxState | null): Promise<Outcome> {
    const { database, records, hosts } = this.#deps;
    const row = await findSandboxOfAnyTeam(database.db, id);
    if (row === undefined || row.state === "stopped") return new PlatformError("sandbox_not_found", `sandbox ${id} has ended`);
    let observed: ObservedSandbox | undefined;
    let host: HostLink;
    try {
      host = hosts.get(row.host_id);
      observed = await host.getSandbox(id);
    } catch (error) {
      return this.#isOlder(operation, hostWaitMs) ? interrupted(error instanceof Error ? error.message : "") : "later";
    }
    if (observed === undefined) return interrupted();
    await records.observe(observed);
    if (changing.has(observed.state) && !this.#isOlder(operation, hostWaitMs)) return "later";
    if (!(await this.#stays(observed, host))) return "later";
    return observed.state === wanted ? "done" : interrupted();
  }

  /**
   * Asks the host for what the sandbox is already, which counts as a change there: whatever was asked of it before, and has not arrived, is refused from then on. Else it could still be done after
   * somebody was told that it was not. False where it changed, or cannot be asked, at this moment.
   */
  async #stays({ id, state, generation }: ObservedSandbox, host: HostLink): Promise<boolean> {
    const request = { sandboxId: id, revision: BigInt(generation) };
    const options = { timeoutMs: callTimeoutMs };
    try {
      if (state === "running") await host.call(() => host.client.resumeSandbox(request, options));
      else if (state === "paused") await host.call(() => host.client.pauseSandbox(request, options));
      return true;
    } catch {
      return false;
    }
  }

  #isOlder({ time_created: created }: Pick<OperationRow, "time_created">, ms: number): boolean {
    return this.#deps.records.now().getTime() - created.getTime() >= ms;
  }
}

function interrupted(why = ""): PlatformError {
  const cause = why === "" ? "" : `: ${why}`;
  return new PlatformError(
    "operation_interrupted",
    `the control plane was interrupted while it did this, and it was undone${cause}; try again`,
    {
      retryAfterSec: 1,
    },
  );
}
