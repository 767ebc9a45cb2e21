import type { AuditAction, AuditScope } from "@roost/contract";

import type { Caller } from "../accounts/caller.ts";
import { noTeamId } from "../accounts/requester.ts";
import { appendAuditEntries, lockAuditHead, type AuditEntryRow } from "../db/audit.ts";
import type { Db } from "../db/database.ts";
import { hashOfEntry, noHash } from "./entry-hash.ts";

/** What somebody did. Never put secrets, contents of files or commands into `detail`. */
export interface AuditEntry {
  readonly action: AuditAction;
  readonly resource: { readonly kind: string; readonly id: string | null };
  /** Default: `team` */
  readonly scope?: AuditScope;
  /** Default: `success` */
  readonly status?: "success" | "failure";
  readonly detail?: Readonly<Record<string, string>>;
  /** Whose log, where it is not what the action says (`platformKinds`, else the caller's team): a team's, or null for the platform's */
  readonly teamId?: string | null;
}

/** The platform's own chain; no id of a team */
export const platformChain = "platform";

/** What is nobody's team's: acts on these are in the platform's log. */
const platformKinds: ReadonlySet<string> = new Set(["user", "session", "host"]);

/** Of what is kept of an entry's texts, in characters each, and how many details */
const textLengthMax = 256;
const detailEntriesMax = 16;

/** An entry with who and when, not yet in its chain. */
export type PendingEntry = Omit<AuditEntryRow, "number" | "previous_hash" | "hash">;

/**
 * The audit log: for each team, and for the platform, a chain of entries in which each has the hash of the one before. Whoever changes, adds or
 * removes an entry later makes the hashes wrong from there on; who cuts off the end is told by `audit_head`; who rewrites all of it, by the
 * heads that the control plane writes to its log.
 */
export class Audit {
  readonly #now: () => Date;
  /** Callers (one object per request) of whom something was recorded */
  readonly #recorded = new WeakMap<Caller, "success" | "failure">();

  constructor(now: () => Date = () => new Date()) {
    this.#now = now;
  }

  /**
   * Appends an entry. `db`: the transaction of the act, so that both happen or neither does; without one, it is one of its own. It holds the
   * chain's lock until the transaction ends: make it the transaction's last statement, and the only one of its kind.
   * `more`: what the act brought with it.
   */
  async record(db: Db, caller: Caller, entry: AuditEntry, more: readonly PendingEntry[] = []): Promise<void> {
    await this.append(db, [this.pending(caller, entry), ...more]);
    this.#recorded.set(caller, entry.status ?? "success");
  }

  /** What became of the caller's request, as far as it was recorded; undefined: not at all. */
  recordedOf(caller: Caller): "success" | "failure" | undefined {
    return this.#recorded.get(caller);
  }

  pending(caller: Caller, entry: AuditEntry): PendingEntry {
    const isPlatforms = platformKinds.has(entry.action.split(".", 1)[0] ?? "");
    const teamId = entry.teamId === undefined ? (isPlatforms ? null : caller.teamId) : entry.teamId;
    return {
      // also what somebody tries who is in no team
      chain: teamId === null || teamId === noTeamId ? platformChain : teamId,
      time_created: this.#now(),
      actor_kind: caller.actor.kind,
      actor_id: storable(caller.actor.id),
      actor_name: storable(caller.actor.name),
      action: entry.action,
      resource_kind: storable(entry.resource.kind),
      resource_id: entry.resource.id === null ? null : storable(entry.resource.id),
      scope: entry.scope ?? "team",
      status: entry.status ?? "success",
      request_id: storable(caller.requestId),
      address: caller.address === null ? null : storable(caller.address),
      detail: Object.fromEntries(
        Object.entries(entry.detail ?? {})
          .slice(0, detailEntriesMax)
          .map(([key, value]) => [storable(key), storable(value)]),
      ),
    };
  }

  /** Appends entries of any chains; within one, in their order. */
  async append(db: Db, entries: readonly PendingEntry[]): Promise<void> {
    if (entries.length === 0) return;
    if (!db.isTransaction) return db.transaction().execute(async (transaction) => this.append(transaction, entries));
    // Always in the same order, so that two who append to several chains never wait for each other
    const chains = [...new Set(entries.map((entry) => entry.chain))].sort();
    for (const chain of chains) {
      const head = await lockAuditHead(db, chain, noHash);
      let { number, hash } = head;
      const rows = entries
        .filter((entry) => entry.chain === chain)
        .map((entry) => {
          number += 1;
          const row = { ...entry, number, previous_hash: hash };
          hash = hashOfEntry(row);
          return { ...row, hash };
        });
      await appendAuditEntries(db, rows);
    }
  }
}

/** U+0000 and halves of characters cannot be stored as they are, and what cannot be read back would break the chain. */
function storable(text: string): string {
  return Buffer.from(text.replaceAll("\0", "\u{FFFD}").slice(0, textLengthMax), "utf8").toString("utf8");
}
