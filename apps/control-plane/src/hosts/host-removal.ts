import { PlatformError } from "@roost/contract";
import { second, withDeadline, type Logger } from "@roost/kit";

import type { Caller } from "../accounts/caller.ts";
import type { Audit } from "../audit/audit.ts";
import type { Db } from "../db/database.ts";
import { deleteHost, listSandboxesOn, type HostRow } from "../db/hosts.ts";
import { markStopped } from "../db/sandboxes.ts";
import { emit } from "../events/outbox.ts";
import { hostChanged } from "./host-errors.ts";
import type { HostLink } from "./host-link.ts";
import type { Hosts } from "./hosts.ts";

/** Ids that a refusal names */
const namedMax = 5;
/** Time in `ms` in which a host that is reached ends its sandboxes before it is let go; what is left then, its operator ends */
const endTimeoutMs = 20 * second;
const endsAtOnce = 8;

export interface HostRemovalDependencies {
  readonly db: Db;
  readonly hosts: Hosts;
  readonly audit: Audit;
  /** Ids of hosts that are part of this process */
  readonly inProcess: ReadonlySet<string>;
  /** Called for each sandbox that is over because its host is. */
  readonly onEnded: (sandboxId: string) => void;
  readonly log: Logger;
  readonly now: () => Date;
}

/** The end of a host. */
export class HostRemoval {
  readonly #deps: HostRemovalDependencies;

  constructor(deps: HostRemovalDependencies) {
    this.#deps = deps;
  }

  requireRemote(hostId: string, why: string): void {
    if (!this.#deps.inProcess.has(hostId)) return;
    throw new PlatformError("host_wrong_state", `host ${hostId} is part of the control plane's own process and ${why}`);
  }

  /**
   * Deletes a host. Its sandboxes are ended where it can be reached, and over in any case: what it may still run is nobody's any more, and it is told so when it
   * asks again. From the moment of the transaction its certificate is refused.
   */
  async remove(caller: Caller, row: HostRow, { force }: { readonly force: boolean }): Promise<void> {
    const { db, hosts, log } = this.#deps;
    this.requireRemote(row.id, "cannot be deleted");
    await this.#requireEmpty(db, row, force);
    const link = hosts.all().find((candidate) => candidate.id === row.id);
    if (link !== undefined && hosts.seenState(row.id) !== "unreachable") await this.#endSandboxes(link);
    const ended = await db.transaction().execute(async (transaction) => {
      const now = this.#deps.now();
      if (!(await deleteHost(transaction, row))) throw hostChanged(row.id);
      const sandboxes = await this.#requireEmpty(transaction, row, force);
      for (const sandbox of sandboxes) {
        await markStopped(transaction, sandbox.id, "host_deleted", now);
        await emit(transaction, {
          kind: "sandbox.stopped",
          teamId: sandbox.team_id,
          subject: { kind: "sandbox", id: sandbox.id },
          actor: caller.actor,
          message: "its host was deleted",
          detail: { reason: "host_deleted" },
          time: now,
        });
      }
      await transaction.deleteFrom("snapshot").where("host_id", "=", row.id).execute();
      await emit(transaction, {
        kind: "host.deleted",
        teamId: row.team_id,
        subject: { kind: "host", id: row.id },
        actor: caller.actor,
        message: `host ${row.name} was deleted`,
        detail: { sandboxes: String(sandboxes.length) },
        time: now,
      });
      await this.#deps.audit.record(transaction, caller, {
        action: "host.delete",
        resource: { kind: "host", id: row.id },
        scope: "admin",
        detail: { name: row.name, sandboxes: String(sandboxes.length), force: String(force) },
      });
      return sandboxes;
    });
    log.warn({ hostId: row.id, name: row.name, sandboxes: ended.length, actor: caller.actor.id }, "a host was deleted");
    for (const sandbox of ended) this.#deps.onEnded(sandbox.id);
  }

  /** The sandboxes there are on it, which is allowed only if it is forced. */
  async #requireEmpty(db: Db, row: HostRow, force: boolean): ReturnType<typeof listAll> {
    const rows = await listAll(db, row.id);
    if (rows.length === 0 || force) return rows;
    const named = rows.slice(0, namedMax).map((sandbox) => sandbox.id);
    const more = rows.length > namedMax ? ` and ${rows.length - namedMax} more` : "";
    throw new PlatformError(
      "host_has_sandboxes",
      `host ${row.id} has ${rows.length === 1 ? "a sandbox" : `${rows.length} sandboxes`} (${named.join(", ")}${more}); delete ${rows.length === 1 ? "it" : "them"} first, or delete the host with \`force\` and lose ${rows.length === 1 ? "it" : "them"}`,
    );
  }

  async #endSandboxes(link: HostLink): Promise<void> {
    const { db, log } = this.#deps;
    const waiting = (await listAll(db, link.id)).map((sandbox) => sandbox.id);
    const stop = AbortSignal.timeout(endTimeoutMs);
    const next = async (): Promise<void> => {
      for (let id = waiting.shift(); id !== undefined && !stop.aborted; id = waiting.shift()) {
        const sandboxId = id;
        await link.call(() => link.client.destroySandbox({ sandboxId, reason: "its host was deleted" }, { signal: stop }));
      }
    };
    await withDeadline(
      "the end of the host's sandboxes",
      endTimeoutMs + second,
      Promise.all(Array.from({ length: endsAtOnce }, next)),
    ).catch((error: unknown) =>
      log.warn({ err: error, hostId: link.id }, "some sandboxes of a host that is being deleted may go on there; end them by hand"),
    );
  }
}

async function listAll(db: Db, hostId: string) {
  return (await listSandboxesOn(db, hostId, Number.MAX_SAFE_INTEGER)).rows;
}
