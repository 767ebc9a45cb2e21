import { hour, second, ServiceLoop, type Logger } from "@roost/kit";

import { systemCaller } from "../accounts/caller.ts";
import { findLastBefore, listAuditHeads, lockAuditHead, removeAuditEntries } from "../db/audit.ts";
import type { Db } from "../db/database.ts";
import { platformChain, type Audit } from "./audit.ts";
import { noHash } from "./entry-hash.ts";

/** Time between two rounds in `ms`: what happened since the last written head could be rewritten unnoticed */
const intervalMs = 1 * hour;

export interface AuditUpkeepOptions {
  readonly db: Db;
  readonly audit: Audit;
  /** How long entries stay, in `s`; 0: for ever */
  readonly retentionSec: number;
  readonly log: Logger;
  readonly now?: () => Date;
}

/** Writes the heads of chains to the log, which is kept elsewhere, and removes what is older than the retention. Any number of control planes may. */
export class AuditUpkeep {
  readonly #options: AuditUpkeepOptions;
  readonly #log: Logger;
  readonly #written = new Map<string, number>();

  constructor(options: AuditUpkeepOptions) {
    this.#options = options;
    this.#log = options.log.child({ service: "audit" });
  }

  async run(signal: AbortSignal): Promise<void> {
    await new ServiceLoop("audit upkeep", this.#log, signal).every(intervalMs, () => this.round());
  }

  async round(): Promise<void> {
    const { db, retentionSec } = this.#options;
    for (const head of await listAuditHeads(db)) {
      if (retentionSec > 0) await this.#prune(head.chain, retentionSec);
      if (this.#written.get(head.chain) === head.number) continue;
      this.#written.set(head.chain, head.number);
      this.#log.info({ chain: head.chain, number: head.number, hash: head.hash }, "the audit log ends here");
    }
  }

  /** The removal is an entry itself, and where the chain begins afterwards is in its head. */
  async #prune(chain: string, retentionSec: number): Promise<void> {
    const { db, audit, now = () => new Date() } = this.#options;
    const before = new Date(now().getTime() - retentionSec * second);
    await db.transaction().execute(async (transaction) => {
      const head = await lockAuditHead(transaction, chain, noHash);
      const last = await findLastBefore(transaction, head, before);
      if (last === undefined) return;
      const count = await removeAuditEntries(transaction, chain, last);
      await audit.append(transaction, [
        audit.pending(systemCaller(chain), {
          action: "audit.prune",
          resource: { kind: "audit", id: chain },
          teamId: chain === platformChain ? null : chain,
          detail: { count: String(count), last_number: String(last.number), last_hash: last.hash },
        }),
      ]);
      this.#log.info({ chain, count, lastNumber: last.number, lastHash: last.hash }, "old audit entries were removed");
    });
  }
}
