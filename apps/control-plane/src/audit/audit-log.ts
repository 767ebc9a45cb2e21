import {
  auditVerifyEntriesMax,
  PlatformError,
  type AuditEntryView,
  type AuditList,
  type AuditLogName,
  type AuditVerification,
  type ListAuditQuery,
  type VerifyAuditQuery,
} from "@roost/contract";

import type { Caller } from "../accounts/caller.ts";
import { listAuditEntries, type AuditEntryRow } from "../db/audit.ts";
import type { Db } from "../db/database.ts";
import { platformChain } from "./audit.ts";
import { verifyChain } from "./verify-chain.ts";

/** What is read of the audit log. */
export class AuditLog {
  readonly #db: Db;

  constructor(db: Db) {
    this.#db = db;
  }

  /** Newest first. Of the team's, members see what is of scope `team`. */
  async list(caller: Caller, query: ListAuditQuery): Promise<AuditList> {
    const rows = await listAuditEntries(this.#db, {
      chain: chainFor(caller, query.log),
      scopes: caller.role === "member" && !caller.isAdmin ? ["team"] : ["team", "admin"],
      actorId: query.actor,
      action: query.action,
      resourceKind: query.resource_kind,
      resourceId: query.resource_id,
      status: query.status,
      from: query.from === undefined ? undefined : new Date(query.from),
      to: query.to === undefined ? undefined : new Date(query.to),
      before: query.cursor === undefined ? undefined : decodeCursor(query.cursor),
      limit: query.limit + 1,
    });
    const page = rows.slice(0, query.limit);
    const last = page.at(-1);
    return {
      entries: page.map(viewEntry),
      next_cursor: rows.length > query.limit && last !== undefined ? encodeCursor(last.number) : null,
    };
  }

  /** Whether entries after `after` are what was written; of at most `auditVerifyEntriesMax` of them. */
  async verify(caller: Caller, query: VerifyAuditQuery): Promise<AuditVerification> {
    return verifyChain(this.#db, chainFor(caller, query.log), {
      after: query.after,
      afterHash: query.after_hash,
      entriesMax: auditVerifyEntriesMax,
    });
  }
}

function chainFor(caller: Caller, log: AuditLogName): string {
  if (log === "team") return caller.teamId;
  if (!caller.isAdmin) throw new PlatformError("admin_only", "log: only admins of the platform see what is in `platform`; `team` is yours");
  return platformChain;
}

/** Numbers are public, but a page's end is nothing to calculate with. */
function encodeCursor(number: number): string {
  return Buffer.from(number.toString(36)).toString("base64url");
}

function decodeCursor(cursor: string): number {
  const text = Buffer.from(cursor, "base64url").toString("latin1");
  if (!/^[0-9a-z]{1,10}$/.test(text)) throw new PlatformError("request_invalid", "cursor: this is not a `next_cursor` of an earlier page");
  return Number.parseInt(text, 36);
}

function viewEntry(row: AuditEntryRow): AuditEntryView {
  return {
    number: row.number,
    time: row.time_created.toISOString(),
    actor: { kind: row.actor_kind, id: row.actor_id, name: row.actor_name },
    action: row.action,
    resource: { kind: row.resource_kind, id: row.resource_id },
    scope: row.scope,
    status: row.status,
    request_id: row.request_id,
    address: row.address,
    detail: row.detail,
    previous_hash: row.previous_hash,
    hash: row.hash,
  };
}
