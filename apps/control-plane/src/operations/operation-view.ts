import type { Operation } from "@roost/contract";

import type { OperationRow } from "../db/operations.ts";

/** An operation as users see it. */
export function viewOperation(row: OperationRow): Operation {
  return {
    id: row.id,
    kind: row.kind,
    state: row.state,
    step: row.step,
    subject: { kind: row.subject_kind, id: row.subject_id },
    made: row.made,
    error: row.failure,
    created_at: row.time_created.toISOString(),
    ended_at: row.time_ended?.toISOString() ?? null,
  };
}
