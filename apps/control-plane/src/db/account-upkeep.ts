import { hour } from "@roost/kit";

import type { Db } from "./database.ts";

/** Mails that could not be sent are shown this long in `ms` */
const givenUpKeptMs = 30 * 24 * hour;

/** Forgets what is over. Harmless when several do it at once. */
export async function deleteExpired(db: Db, now: Date): Promise<void> {
  await db.deleteFrom("session").where("time_expires", "<=", now).execute();
  await db.deleteFrom("account_token").where("time_expires", "<=", now).execute();
  await db.deleteFrom("invitation").where("time_expires", "<=", now).execute();
  await db.deleteFrom("rate_limit").where("expire", "<=", now.getTime()).execute();
  await db
    .deleteFrom("mail")
    .where("time_given_up", "<", new Date(now.getTime() - givenUpKeptMs))
    .execute();
}
