import type { Channel, Delivery } from "@roost/contract";

import type { CountedChannelRow } from "../db/channels.ts";
import type { ListedDelivery } from "../db/deliveries.ts";

export function viewChannel(row: CountedChannelRow): Channel {
  return {
    id: row.id,
    name: row.name,
    kind: row.kind,
    destination: row.destination,
    kinds: row.kinds,
    platform_events: row.platform_events,
    is_enabled: row.is_enabled,
    failing_since: row.time_failing?.toISOString() ?? null,
    pending: row.pending,
    failed: row.failed,
    created_at: row.time_created.toISOString(),
    updated_at: row.time_updated.toISOString(),
  };
}

export function viewDelivery(row: ListedDelivery): Delivery {
  return {
    id: row.id,
    event_id: row.event_id,
    event_kind: row.event_kind,
    position: row.position,
    state: row.state,
    attempts: row.attempts,
    next_attempt_at: row.state === "pending" ? row.time_next.toISOString() : null,
    last_status: row.last_status,
    last_error: row.last_error,
    created_at: row.time_created.toISOString(),
    ended_at: row.time_ended?.toISOString() ?? null,
  };
}
