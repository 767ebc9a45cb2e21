import { defaultTeamId, newId, scopesOfRole, type Scope, type TeamRole } from "@roost/contract";

import { scopesOfUser, systemCaller, type Caller } from "../accounts/caller.ts";
import type { Db } from "../db/database.ts";

/** A caller as an API key's with these scopes would be. */
export function keyCaller(scopes: Iterable<Scope> = scopesOfRole.member, more: Partial<Caller> = {}): Caller {
  const actor = { kind: "api_key", id: "ktest", name: "test" } as const;
  return { ...systemCaller(defaultTeamId), actor, scopes: new Set(scopes), isAdmin: new Set(scopes).has("admin"), ...more };
}

/** A caller as a signed-in user's in this role would be; the user is there, too. */
export async function userCaller(db: Db, role: TeamRole = "member", { teamId = defaultTeamId, isAdmin = false } = {}): Promise<Caller> {
  const id = newId("u");
  const account = { id, email: `${id}@example.org`, name: "Test", time_created: new Date() };
  const empty = { time_email_confirmed: null, password_hash: null, time_deactivated: null, time_deleted: null };
  await db
    .insertInto("user_account")
    .values({ ...account, ...empty, is_admin: isAdmin })
    .execute();
  await db.insertInto("membership").values({ team_id: teamId, user_id: id, role, time_created: account.time_created }).execute();
  const actor = { kind: "user", id, name: account.name } as const;
  return { ...systemCaller(teamId), actor, role, scopes: scopesOfUser(role, isAdmin), isAdmin };
}

/** Another team; answers its id. */
export async function createTestTeam(db: Db, slug = newId("g")): Promise<string> {
  const id = newId("g");
  await db.insertInto("team").values({ id, name: slug, slug, time_created: new Date(), time_deleted: null }).execute();
  return id;
}
