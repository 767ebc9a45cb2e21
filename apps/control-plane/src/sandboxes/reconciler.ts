import { minute, ServiceLoop, type Logger } from "@roost/kit";

import type { Db } from "../db/database.ts";
import { recordHost } from "../db/hosts.ts";
import { applyObserved, listOfHost, markLost, markStopped, type SandboxRow } from "../db/sandboxes.ts";
import { createTimeoutMs, destroyTimeoutMs, type HostLink } from "../hosts/host-link.ts";

/** Time between two rounds in `ms` when nobody pokes */
const intervalMs = 1 * minute;

export interface ReconcilerDependencies {
  readonly db: Db;
  readonly host: HostLink;
  /** Whether this process is waiting for the host to create this sandbox. */
  readonly isCreating: (sandboxId: string) => boolean;
  /** Whether no other process creates sandboxes on this database. */
  readonly isExclusive: boolean;
  /** Called after a record changed to an end. */
  readonly onEnded: (sandboxId: string) => void;
  readonly log: Logger;
  readonly now?: () => Date;
}

/**
 * Makes records and host agree, whatever was missed: takes no input, reads both sides, acts on the difference.
 *
 * The host is right about what it has. Records are read *before* the host is asked, and a record is called lost only if
 * it has not changed since (generation and state): one that was made or changed after the listing is left alone.
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
    const now = this.#deps.now?.() ?? new Date();
    const recorded = await listOfHost(db, host.id);
    const listed = new Map((await host.listSandboxes()).map((sandbox) => [sandbox.id, sandbox]));

    const known = new Map(recorded.map((row) => [row.id, row]));
    for (const sandbox of listed.values()) {
      const row = known.get(sandbox.id);
      if (row !== undefined && row.generation >= sandbox.generation && row.time_lost === null) continue;
      const applied = await applyObserved(db, sandbox, now);
      if (applied === "adopted") this.#log.info({ sandboxId: sandbox.id, state: sandbox.state }, "adopted a sandbox without a record");
    }
    for (const row of recorded) {
      if (listed.has(row.id)) {
        if (row.time_delete_requested !== null && !this.#deps.isCreating(row.id)) await this.#finishDelete(row, now);
      } else if (!this.#mayYetAppear(row, now)) {
        await this.#recordAbsence(row, now);
      }
    }
    const description = await host.describe(0);
    await recordHost(db, { id: host.id, info: description.info, templates: description.templates }, now);
  }

  /** A create that is still on its way to the host is no loss. */
  #mayYetAppear(row: SandboxRow, now: Date): boolean {
    if (this.#deps.isCreating(row.id)) return true;
    if (row.state !== "creating" || this.#deps.isExclusive) return false;
    return now.getTime() - row.time_created.getTime() < createTimeoutMs;
  }

  async #recordAbsence(row: SandboxRow, now: Date): Promise<void> {
    if (row.time_delete_requested !== null || row.state === "stopping") {
      if (await markStopped(this.#deps.db, row.id, "deleted", now)) this.#ended(row, "stopped");
    } else if (row.state !== "failed") {
      const reason =
        row.state === "creating" ? "the control plane ended while it was being created" : "lost by its host: the host no longer knows it";
      if (await markLost(this.#deps.db, row, reason, now)) this.#ended(row, "failed");
    }
  }

  async #finishDelete(row: SandboxRow, now: Date): Promise<void> {
    const { db, host } = this.#deps;
    await host.call(() => host.client.destroySandbox({ sandboxId: row.id }, { timeoutMs: destroyTimeoutMs }));
    if (await markStopped(db, row.id, "deleted", now)) this.#ended(row, "stopped");
  }

  #ended(row: SandboxRow, state: "stopped" | "failed"): void {
    this.#log.warn({ sandboxId: row.id, from: row.state, state }, "record corrected: the host does not know this sandbox");
    this.#deps.onEnded(row.id);
  }
}
