import { PlatformError, type Me, type User } from "@roost/contract";

import type { Audit } from "../audit/audit.ts";
import type { Db } from "../db/database.ts";
import { findMembership, listTeamsOf } from "../db/members.ts";
import type { Provider } from "../db/schema-accounts.ts";
import { findTeam } from "../db/teams.ts";
import { anonymizeUser, deleteIdentity, findUser, listProviders, lockAdmins, lockUser, renameUser, type UserRow } from "../db/users.ts";
import type { ApiKeys } from "../teams/api-keys.ts";
import type { Caller } from "./caller.ts";
import { noTeamId } from "./requester.ts";
import type { SessionCaller } from "./session-authenticator.ts";
import type { Sessions } from "./sessions.ts";

export interface ProfilesDependencies {
  readonly db: Db;
  readonly sessions: Sessions;
  readonly apiKeys: ApiKeys;
  readonly audit: Audit;
  readonly now: () => Date;
}

/** What people may know and change of themselves. */
export class Profiles {
  readonly #deps: ProfilesDependencies;

  constructor(deps: ProfilesDependencies) {
    this.#deps = deps;
  }

  /** Also of an API key. */
  async get(caller: Caller): Promise<Me> {
    const { db } = this.#deps;
    const common = {
      actor: caller.actor,
      team_id: caller.teamId === noTeamId ? null : caller.teamId,
      role: caller.role,
      scopes: [...caller.scopes],
      is_admin: caller.isAdmin,
    };
    if (caller.actor.kind !== "user") {
      const team = await findTeam(db, caller.teamId);
      // What a key is in its team is said by its scopes; `member` is what it is at least
      const teams = team === undefined ? [] : [{ id: team.id, name: team.name, slug: team.slug, role: "member" as const }];
      return { ...common, user: null, has_password: false, providers: [], teams };
    }
    const user = await findUser(db, caller.actor.id);
    if (user === undefined) throw sessionOver();
    const teams = await listTeamsOf(db, user.id);
    return {
      ...common,
      actor: { ...caller.actor, name: user.name },
      user: viewUser(user),
      has_password: user.password_hash !== null,
      providers: await listProviders(db, user.id),
      teams: teams.map(({ id, name, slug, role }) => ({ id, name, slug, role })),
    };
  }

  async rename(caller: SessionCaller, name: string): Promise<Me> {
    const { db, sessions, audit } = this.#deps;
    await db.transaction().execute(async (transaction) => {
      await renameUser(transaction, caller.actor.id, name);
      await audit.record(transaction, caller, { action: "user.update", resource: { kind: "user", id: caller.actor.id } });
    });
    sessions.forget();
    return this.get(caller);
  }

  /** Throws `team_not_found`. */
  async switchTeam(caller: SessionCaller, teamId: string): Promise<Me> {
    const { db, sessions } = this.#deps;
    const membership = await findMembership(db, teamId, caller.actor.id);
    const team = membership === undefined ? undefined : await findTeam(db, teamId);
    if (membership === undefined || team === undefined) {
      throw new PlatformError("team_not_found", `you are in no team with the id "${teamId}"`);
    }
    await sessions.switchTeam(db, caller.sessionId, teamId);
    sessions.forget();
    return this.get({ ...caller, teamId, role: membership.role });
  }

  /** Throws `provider_unconnected`, `last_login_method`. */
  async disconnect(caller: SessionCaller, provider: Provider): Promise<void> {
    const { db, audit } = this.#deps;
    await db.transaction().execute(async (transaction) => {
      const user = await lockUser(transaction, caller.actor.id);
      if (user === undefined) throw sessionOver();
      if (!(await deleteIdentity(transaction, user.id, provider))) {
        throw new PlatformError("provider_unconnected", `${provider} is not connected to your account`);
      }
      if (user.password_hash === null) {
        throw new PlatformError("last_login_method", `you could not sign in any more without ${provider}; set a password first`);
      }
      const resource = { kind: "user", id: user.id };
      await audit.record(transaction, caller, { action: "user.provider_disconnect", resource, detail: { provider } });
    });
  }

  /** Nothing of the person is kept; what they made belongs to teams, and stays. Throws `request_invalid`, `last_owner`, `last_admin`. */
  async delete(caller: SessionCaller, confirmation: string): Promise<void> {
    const { db, sessions, apiKeys, audit, now } = this.#deps;
    await db.transaction().execute(async (transaction) => {
      const admins = await lockAdmins(transaction);
      const user = await lockUser(transaction, caller.actor.id);
      if (user === undefined) throw sessionOver();
      if (confirmation.trim().toLowerCase() !== user.email) {
        throw new PlatformError("request_invalid", "confirmation: write your account's e-mail address, which will be deleted with it");
      }
      if (admins.length === 1 && admins[0] === user.id) {
        throw new PlatformError("last_admin", "you are the only admin of the platform; make somebody else one first");
      }
      const teams = await listTeamsOf(transaction, user.id);
      const owned = teams.find((team) => team.role === "owner");
      if (owned !== undefined) {
        throw new PlatformError("last_owner", `you own the team "${owned.name}"; hand it over or delete it first`);
      }
      await transaction.deleteFrom("membership").where("user_id", "=", user.id).execute();
      await sessions.revokeAll(transaction, user.id);
      const revoked = await apiKeys.revokeMadeBy(transaction, user.id, undefined);
      await anonymizeUser(transaction, user.id, now());
      await audit.record(transaction, caller, { action: "user.delete", resource: { kind: "user", id: user.id } }, revoked);
    });
    sessions.forget();
    apiKeys.forget();
  }
}

export function viewUser(row: UserRow): User {
  return { id: row.id, email: row.email, name: row.name, is_admin: row.is_admin, created_at: row.time_created.toISOString() };
}

export function sessionOver(): PlatformError {
  return new PlatformError("api_key_invalid", "this session is over; sign in again");
}
