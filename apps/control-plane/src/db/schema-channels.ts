import type { ChannelKind, DeliveryState } from "@roost/contract";
import type { ColumnType, Generated } from "kysely";

import type { Json } from "./schema.ts";

/** The stream of events, and what is sent of it. */
export interface ChannelTables {
  event_stream: EventStreamTable;
  event_forgotten: EventForgottenTable;
  channel: ChannelTable;
  delivery: DeliveryTable;
}

/** One row. */
export interface EventStreamTable {
  is_only: boolean;
  /** Of the newest published event */
  position: number;
}

export interface EventForgottenTable {
  /** Empty: of events that are nobody's */
  team_id: string;
  position: number;
}

export interface ChannelTable {
  id: string;
  team_id: string;
  name: string;
  kind: ChannelKind;
  /** ChannelConfig, sealed */
  config: Uint8Array;
  /** What of its address may be shown */
  destination: string;
  /** Of events, or `sandbox.*`; empty: all */
  kinds: Json<string[]>;
  /** Also those that are no team's */
  platform_events: boolean;
  is_enabled: boolean;
  /** Tries in a row that failed */
  failures: Generated<number>;
  /** Since when */
  time_failing: ColumnType<Date | null, Date | null | undefined, Date | null>;
  /** No try before */
  time_next: ColumnType<Date | null, Date | null | undefined, Date | null>;
  time_created: Date;
  time_updated: Date;
  generation: Generated<number>;
}

export interface DeliveryTable {
  id: string;
  channel_id: string;
  event_id: string;
  position: number;
  subject: string;
  state: DeliveryState;
  attempts: Generated<number>;
  time_next: Date;
  lease_token: ColumnType<string | null, string | null | undefined, string | null>;
  time_lease_ends: ColumnType<Date | null, Date | null | undefined, Date | null>;
  last_error: ColumnType<string | null, string | null | undefined, string | null>;
  last_status: ColumnType<number | null, number | null | undefined, number | null>;
  time_created: Date;
  time_expires: Date;
  time_ended: ColumnType<Date | null, Date | null | undefined, Date | null>;
}
