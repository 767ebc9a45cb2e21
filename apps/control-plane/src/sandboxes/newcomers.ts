import { PlatformError, type ErrorCode } from "@roost/contract";
import type { Logger } from "@roost/kit";

import type { Database } from "../db/database.ts";
import { forgetSandbox, markCreateFailed, markStopped, requestDeleteOfAnyTeam, type SandboxRow } from "../db/sandboxes.ts";
import type { HostLink } from "../hosts/host-link.ts";
import type { Hosts } from "../hosts/hosts.ts";
import type { SandboxRecords } from "./records.ts";

/** Failures of a create after which the host is known to keep nothing of the sandbox. */
const nothingRemains: ReadonlySet<ErrorCode> = new Set([
  "template_not_found",
  "template_size_fixed",
  "capacity_exhausted",
  "shutting_down",
  "request_invalid",
  "egress_proxy_invalid",
  "sandbox_busy",
  "rate_limited",
]);
/** Failures of a call after which nobody knows what the host made of it. */
export const outcomeUnknown: ReadonlySet<ErrorCode> = new Set(["host_unreachable", "internal"]);

export interface NewcomersDependencies {
  readonly database: Database;
  readonly records: SandboxRecords;
  readonly hosts: Hosts;
}

/** Sandboxes that are recorded, and that their host is about to make: what becomes of them when that fails, or nobody wants them any more. */
export class Newcomers {
  readonly #deps: NewcomersDependencies;
  /** That this process waits for */
  readonly #inFlight = new Set<string>();
  #isDraining = false;

  constructor(deps: NewcomersDependencies) {
    this.#deps = deps;
  }

  isInFlight(sandboxId: string): boolean {
    return this.#inFlight.has(sandboxId);
  }

  /** Takes no new sandboxes from now on. */
  drain(): void {
    this.#isDraining = true;
  }

  refuseWhileDraining(): void {
    if (this.#isDraining) throw new PlatformError("shutting_down", "the platform is shutting down", { retryAfterSec: 5 });
  }

  /** Undoes creates whose caller goes away; but not before `recorded`, because until then there is nothing to undo. */
  begin(ids: readonly string[], signal: AbortSignal, log: Logger): { recorded(): void; end(): void } {
    for (const id of ids) this.#inFlight.add(id);
    const undo = () => {
      log.info("the caller of create is gone; undoing it");
      for (const id of ids) {
        this.delete(id).catch((error: unknown) => log.warn({ err: error, sandboxId: id }, "could not undo a create; the reconciler will"));
      }
    };
    return {
      recorded: () => {
        signal.addEventListener("abort", undo, { once: true });
        if (signal.aborted) undo();
      },
      end: () => {
        signal.removeEventListener("abort", undo);
        for (const id of ids) this.#inFlight.delete(id);
      },
    };
  }

  async delete(id: string): Promise<void> {
    const row = await requestDeleteOfAnyTeam(this.#deps.database.db, id, this.#deps.records.now());
    if (row !== undefined && row.state !== "stopped") await this.#deps.records.endOnHost(id, this.#deps.hosts.get(row.host_id));
  }

  /** The delete of a sandbox may have reached the host before its create did, and found nothing to end. */
  async unlessDeleted(id: string, host: HostLink): Promise<SandboxRow> {
    const row = await this.#deps.records.ofAnyTeam(id);
    if (row.time_delete_requested === null) return row;
    await this.#deps.records.endOnHost(id, host);
    throw new PlatformError("create_aborted", `sandbox ${id} was deleted while it was being created`);
  }

  /** Leaves the record of a failed create as the host knows it. `saysAll`: the host said that nothing came of it. */
  async failed(id: string, host: HostLink, error: unknown, { saysAll }: { readonly saysAll: boolean }, log: Logger): Promise<void> {
    if (!(error instanceof PlatformError)) return;
    log[error.status >= 500 ? "warn" : "info"]({ err: error, sandboxId: id }, "create failed");
    const { db } = this.#deps.database;
    const now = this.#deps.records.now();
    if (error.code === "create_aborted") {
      await markStopped(db, id, "deleted", now);
      return;
    }
    if (nothingRemains.has(error.code)) return forgetSandbox(db, id);
    try {
      const known = await host.getSandbox(id);
      if (known !== undefined) await this.#deps.records.observe(known);
      else if (saysAll) return await forgetSandbox(db, id);
      // Whether the host got the request at all may be unknown: what it makes of it after all is ended by the reconciler.
      if (known?.state !== "failed") await requestDeleteOfAnyTeam(db, id, now);
    } catch {
      await requestDeleteOfAnyTeam(db, id, now);
    }
    await markCreateFailed(db, id, error.message, now);
  }
}
