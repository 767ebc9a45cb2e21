import type { AuditVerification } from "@roost/contract";

import { findAuditHead, walkAudit, type AuditEntryRow, type AuditHeadRow } from "../db/audit.ts";
import type { Db } from "../db/database.ts";
import { hashOfEntry, noHash } from "./entry-hash.ts";

/** Entries of one query */
const batchMax = 1_000;

export interface VerifyRange {
  /** Number of an entry that is taken to be right; 0, or below what is kept: from the oldest one that is kept */
  readonly after: number;
  /** What its hash has to be; undefined: what it is */
  readonly afterHash?: string | undefined;
  readonly entriesMax: number;
}

/** Walks a chain and compares each entry with its hash, each hash with the one that the next entry has, and the end with what `audit_head` says. */
export async function verifyChain(db: Db, chain: string, range: VerifyRange): Promise<AuditVerification> {
  const head = await headOf(db, chain);
  const answer = await walk(db, head, range);
  // Old entries may have been removed in the meantime, as the retention says: their absence proves nothing
  const isOutdated = !answer.is_intact && (await headOf(db, chain)).kept_from !== head.kept_from;
  return isOutdated ? verifyChain(db, chain, range) : answer;
}

async function headOf(db: Db, chain: string): Promise<AuditHeadRow> {
  return (await findAuditHead(db, chain)) ?? { chain, number: 0, hash: noHash, kept_from: 1, removed_hash: noHash };
}

async function walk(db: Db, head: AuditHeadRow, { after, afterHash, entriesMax }: VerifyRange): Promise<AuditVerification> {
  const start = await startOf(db, head, after, afterHash);
  let { number, hash } = start;
  let checked = 0;
  const answer = (brokenAt: number | null, problem: string | null): AuditVerification => ({
    is_intact: brokenAt === null,
    is_complete: brokenAt === null && number >= head.number,
    kept_from: head.kept_from,
    checked_to: number,
    checked_to_hash: hash,
    checked,
    broken_at: brokenAt,
    problem,
  });
  if (start.problem !== undefined) return answer(after, start.problem);
  while (checked < entriesMax) {
    const rows = await walkAudit(db, head.chain, number, Math.min(batchMax, entriesMax - checked));
    for (const row of rows) {
      const problem = problemOf(row, number, hash);
      if (problem !== undefined) return answer(number + 1, problem);
      ({ number, hash } = row);
      checked += 1;
      // What was appended since is in another look at the head
      if (number === head.number && hash !== head.hash) return answer(number, "it is not the entry that the log ended with");
    }
    if (rows.length === 0) break;
  }
  if (checked < entriesMax && number < head.number)
    return answer(number + 1, `it is missing, and so are all up to ${head.number}: the end was cut off`);
  return answer(null, null);
}

interface Start {
  readonly number: number;
  readonly hash: string;
  readonly problem?: string;
}

async function startOf(db: Db, head: AuditHeadRow, after: number, afterHash: string | undefined): Promise<Start> {
  const removed = { number: head.kept_from - 1, hash: head.removed_hash };
  if (after < removed.number || after === 0) return removed;
  if (after === removed.number) return { ...removed, ...differs(removed.hash, afterHash) };
  const [row] = await walkAudit(db, head.chain, after - 1, 1);
  if (row?.number !== after) return { number: after, hash: noHash, problem: "it is missing" };
  return { number: row.number, hash: row.hash, ...differs(row.hash, afterHash) };
}

function differs(hash: string, expected: string | undefined): { readonly problem?: string } {
  return expected === undefined || expected === hash
    ? {}
    : { problem: "its hash is not the one that is known of it: the log was written anew" };
}

function problemOf(row: AuditEntryRow, number: number, hash: string): string | undefined {
  if (row.number !== number + 1) return "it is missing";
  if (row.previous_hash !== hash) return "it does not follow from the entry before";
  if (hashOfEntry(row) !== row.hash) return "it was changed";
  return undefined;
}
