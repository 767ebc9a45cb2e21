import type { AuditEntryView, AuditLogName, AuditVerification, AuditAction } from "@roost/contract";

import type { Api } from "./api.ts";
import type { RequestOptions } from "./connection.ts";

export interface ListAuditOptions extends RequestOptions {
  /** Default: the team's */
  readonly log?: AuditLogName | undefined;
  /** Id of who did it */
  readonly actor?: string | undefined;
  readonly action?: AuditAction | undefined;
  readonly resourceId?: string | undefined;
  readonly status?: "success" | "failure" | undefined;
  readonly from?: string | undefined;
  readonly to?: string | undefined;
  /** Entries per page */
  readonly limit?: number | undefined;
}

/** An entry whose hash is known from elsewhere. */
export interface KnownEntry {
  readonly number: number;
  readonly hash: string;
}

/** Who did what. Needs the scope `audit:read`. */
export class AuditLog {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  /** Newest first; further pages are fetched as they are reached. */
  async *list(options: ListAuditOptions = {}): AsyncGenerator<AuditEntryView, void, void> {
    const { log, actor, action, resourceId, status, from, to, limit } = options;
    let cursor: string | undefined;
    do {
      const query = {
        log,
        actor,
        action,
        resource_id: resourceId,
        status,
        from,
        to,
        limit: limit === undefined ? undefined : String(limit),
        cursor,
      };
      const page = await this.#api.call("listAudit", { query }, options);
      yield* page.entries;
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined);
  }

  /** Walks the whole log, or what came after an entry that is known. Answers how far it came: to the end, or to the first entry that is wrong. */
  async verify(log: AuditLogName = "team", known?: KnownEntry, options: RequestOptions = {}): Promise<AuditVerification> {
    let checked = 0;
    let after = known;
    for (;;) {
      const query = { log, after: String(after?.number ?? 0), after_hash: after?.hash };
      const answer = await this.#api.call("verifyAudit", { query }, options);
      checked += answer.checked;
      if (!answer.is_intact || answer.is_complete || answer.checked === 0) return { ...answer, checked };
      after = { number: answer.checked_to, hash: answer.checked_to_hash };
    }
  }
}
