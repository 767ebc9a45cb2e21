import type { Db } from "./database.ts";

/** A sandbox and the access token of its guest agent. */
export interface TokenHolder {
  readonly id: string;
  readonly accessToken: string;
}

/** Sandboxes whose token may have signed something that is still of use, newest first. One without security has no token that anybody knows. */
export async function listTokenHolders(db: Db, limit: number): Promise<TokenHolder[]> {
  return db
    .selectFrom("sandbox")
    .select(["id", "access_token as accessToken"])
    .where("for_build_id", "is", null)
    .where("is_secure", "=", true)
    .where("access_token", "<>", "")
    .where("time_delete_requested", "is", null)
    .where("state", "not in", ["creating", "stopping", "stopped", "failed"])
    .orderBy("time_created", "desc")
    .limit(limit)
    .execute();
}
