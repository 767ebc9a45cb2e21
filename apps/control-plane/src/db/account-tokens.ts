import type { Db } from "./database.ts";
import type { TokenDetails, TokenKind } from "./schema-accounts.ts";

export interface NewAccountToken<Kind extends TokenKind> {
  readonly hash: Uint8Array;
  readonly kind: Kind;
  readonly userId: string | null;
  readonly detail: TokenDetails[Kind];
  readonly timeExpires: Date;
}

export async function insertAccountToken<Kind extends TokenKind>(db: Db, token: NewAccountToken<Kind>, now: Date): Promise<void> {
  await db
    .insertInto("account_token")
    .values({
      hash: token.hash,
      kind: token.kind,
      user_id: token.userId,
      detail: JSON.stringify(token.detail),
      time_created: now,
      time_expires: token.timeExpires,
    })
    .execute();
}

export interface FoundToken<Kind extends TokenKind> {
  readonly userId: string | null;
  readonly detail: TokenDetails[Kind];
}

/** Looks at it without using it up. */
export async function findAccountToken<Kind extends TokenKind>(
  db: Db,
  kind: Kind,
  hash: Uint8Array,
  now: Date,
): Promise<FoundToken<Kind> | undefined> {
  const row = await db
    .selectFrom("account_token")
    .select(["user_id", "detail"])
    .where("hash", "=", hash)
    .where("kind", "=", kind)
    .where("time_expires", ">", now)
    .executeTakeFirst();
  return row === undefined ? undefined : { userId: row.user_id, detail: row.detail as TokenDetails[Kind] };
}

/** Uses it up: of several who try, one gets it, if it has not expired. */
export async function takeAccountToken<Kind extends TokenKind>(
  db: Db,
  kind: Kind,
  hash: Uint8Array,
  now: Date,
): Promise<FoundToken<Kind> | undefined> {
  const row = await db
    .deleteFrom("account_token")
    .where("hash", "=", hash)
    .where("kind", "=", kind)
    .where("time_expires", ">", now)
    .returning(["user_id", "detail"])
    .executeTakeFirst();
  return row === undefined ? undefined : { userId: row.user_id, detail: row.detail as TokenDetails[Kind] };
}

export async function deleteAccountTokensOf(db: Db, userId: string, kind: TokenKind): Promise<void> {
  await db.deleteFrom("account_token").where("user_id", "=", userId).where("kind", "=", kind).execute();
}
