import { sql, type Selectable } from "kysely";

import type { Db } from "./database.ts";
import type { MailTable } from "./schema-accounts.ts";

export type MailRow = Selectable<MailTable>;

export async function insertMail(db: Db, mail: Pick<MailRow, "id" | "recipient" | "subject" | "text" | "html">, now: Date): Promise<void> {
  await db
    .insertInto("mail")
    .values({ ...mail, time_created: now, time_next: now, time_given_up: null, last_error: null })
    .execute();
}

/**
 * Mails whose time has come. They are put off by `leaseMs` first: no other control plane sends them meanwhile, and if this one dies, somebody
 * tries again after that.
 */
export async function claimMails(db: Db, limit: number, now: Date, leaseMs: number): Promise<MailRow[]> {
  return db
    .updateTable("mail")
    .set({ attempts: sql`attempts + 1`, time_next: new Date(now.getTime() + leaseMs) })
    .where("id", "in", (row) =>
      row
        .selectFrom("mail")
        .select("id")
        .where("time_given_up", "is", null)
        .where("time_next", "<=", now)
        .orderBy("time_next")
        .limit(limit)
        .forUpdate()
        .skipLocked(),
    )
    .returningAll()
    .execute();
}

export async function deleteMail(db: Db, id: string): Promise<void> {
  await db.deleteFrom("mail").where("id", "=", id).execute();
}

/** `timeNext`: when it is tried again; null: not any more, and what it said is forgotten. */
export async function noteMailFailure(db: Db, id: string, error: string, timeNext: Date | null, now: Date): Promise<void> {
  const end = timeNext === null ? { time_given_up: now, text: "", html: "" } : { time_next: timeNext };
  await db
    .updateTable("mail")
    .set({ last_error: error, ...end })
    .where("id", "=", id)
    .execute();
}
