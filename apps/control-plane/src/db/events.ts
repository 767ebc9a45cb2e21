import type { EventKind } from "@roost/contract";
import type { Selectable } from "kysely";

import type { Db } from "./database.ts";
import type { EventTable } from "./schema.ts";

export type EventRow = Selectable<EventTable>;

/** An event as its host told it. */
export interface NewEvent {
  readonly id: string;
  readonly hostId: string;
  readonly time: Date;
  readonly kind: EventKind;
  readonly sandboxId: string | null;
  readonly template: string | null;
  readonly message: string;
  readonly detail: Readonly<Record<string, string>>;
}

/** False when it was known already. */
export async function insertEvent(db: Db, event: NewEvent): Promise<boolean> {
  const result = await db
    .insertInto("event")
    .values({
      id: event.id,
      host_id: event.hostId,
      time_created: event.time,
      kind: event.kind,
      sandbox_id: event.sandboxId,
      template: event.template,
      message: event.message,
      detail: JSON.stringify(event.detail),
    })
    .onConflict((conflict) => conflict.column("id").doNothing())
    .executeTakeFirst();
  return (result.numInsertedOrUpdatedRows ?? 0n) > 0n;
}

export interface EventFilter {
  readonly sandboxId?: string;
  /** Last of the page before */
  readonly after?: { readonly timeCreated: Date; readonly number: number };
  readonly limit: number;
}

/** Newest first; of one instant, the one heard of last first. */
export async function listEvents(db: Db, filter: EventFilter): Promise<EventRow[]> {
  let query = db
    .selectFrom("event")
    .selectAll()
    // what happens to sandboxes that work for a build is told by its log
    .where(({ exists, not, selectFrom }) =>
      not(
        exists(
          selectFrom("sandbox").select("sandbox.id").whereRef("sandbox.id", "=", "event.sandbox_id").where("for_build_id", "is not", null),
        ),
      ),
    );
  if (filter.sandboxId !== undefined) query = query.where("sandbox_id", "=", filter.sandboxId);
  const after = filter.after;
  if (after !== undefined) {
    query = query.where((row) =>
      row.or([
        row("time_created", "<", after.timeCreated),
        row.and([row("time_created", "=", after.timeCreated), row("number", "<", after.number)]),
      ]),
    );
  }
  return query.orderBy("time_created", "desc").orderBy("number", "desc").limit(filter.limit).execute();
}

/** Deletes events from before `before`, and all but about the newest `countMax`; answers how many. */
export async function forgetEvents(db: Db, before: Date, countMax: number): Promise<number> {
  const newest = await db
    .selectFrom("event")
    .select((row) => row.fn.max("number").as("number"))
    .executeTakeFirst();
  const last = (newest?.number ?? 0) - countMax;
  const result = await db
    .deleteFrom("event")
    .where((row) => row.or([row("time_created", "<", before), row("number", "<=", last)]))
    .executeTakeFirst();
  return Number(result.numDeletedRows);
}
