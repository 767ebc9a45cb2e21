import type { Event } from "@roost/contract";

import type { EventRow } from "../db/events.ts";

export function viewEvent(row: EventRow): Event {
  return {
    id: row.id,
    position: row.position,
    time: row.time_created.toISOString(),
    kind: row.kind,
    subject: { kind: row.subject_kind, id: row.subject_id },
    actor: row.actor,
    sandbox_id: row.sandbox_id,
    template: row.template,
    message: row.message,
    detail: row.detail,
  };
}
