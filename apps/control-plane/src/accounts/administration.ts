import { PlatformError, platformScopes, type AdminPageQuery, type AdminTeam, type AdminUser, type TeamQuota } from "@roost/contract";

import type { Audit } from "../audit/audit.ts";
import type { Db } from "../db/database.ts";
import { findAdminTeam, listAdminTeams, setQuota, type AdminTeamRow } from "../db/members.ts";
import { quotaOf } from "../db/teams.ts";
import { findAdminUser, listAdminUsers, lockAdmins, lockUser, setAdmin, setDeactivated, type AdminUserRow } from "../db/users.ts";
import { decodePosition, encodePosition, type PagePosition } from "../page-position.ts";
import type { ApiKeys } from "../teams/api-keys.ts";
import { tellOfTeam } from "../teams/team-events.ts";
import type { TeamRequests } from "../teams/team-requests.ts";
import type { Caller } from "./caller.ts";
import { viewUser } from "./profiles.ts";
import type { Sessions } from "./sessions.ts";

export interface AdministrationDependencies {
  readonly db: Db;
  readonly sessions: Sessions;
  readonly apiKeys: ApiKeys;
  readonly teamRequests: TeamRequests;
  readonly audit: Audit;
  readonly now: () => Date;
}

/** What admins of the platform do. Who may is decided before. */
export class Administration {
  readonly #deps: AdministrationDependencies;

  constructor(deps: AdministrationDependencies) {
    this.#deps = deps;
  }

  async listTeams({ limit, cursor }: AdminPageQuery): Promise<{ readonly teams: AdminTeam[]; readonly next_cursor: string | null }> {
    const rows = await listAdminTeams(this.#deps.db, limit + 1, positionOf(cursor));
    return { teams: rows.slice(0, limit).map(viewAdminTeam), next_cursor: nextCursor(rows, limit) };
  }

  async listUsers({ limit, cursor }: AdminPageQuery): Promise<{ readonly users: AdminUser[]; readonly next_cursor: string | null }> {
    const rows = await listAdminUsers(this.#deps.db, limit + 1, positionOf(cursor));
    return { users: rows.slice(0, limit).map(viewAdminUser), next_cursor: nextCursor(rows, limit) };
  }

  /** Throws `team_not_found`. */
  async setQuota(caller: Caller, teamId: string, quota: TeamQuota): Promise<AdminTeam> {
    const { db, audit, teamRequests } = this.#deps;
    const row = await db.transaction().execute(async (transaction) => {
      if (!(await setQuota(transaction, teamId, JSON.stringify(quota)))) throw noTeam(teamId);
      const detail = Object.fromEntries(Object.entries(quota).map(([name, value]) => [name, String(value ?? "unlimited")]));
      const found = await findAdminTeam(transaction, teamId);
      await tellOfTeam(transaction, "team.updated", teamId, caller, "the team has another quota", { quota: JSON.stringify(quota) });
      await audit.record(transaction, caller, { action: "team.quota", resource: { kind: "team", id: teamId }, teamId, detail });
      return found;
    });
    if (row === undefined) throw noTeam(teamId);
    teamRequests.forget();
    return viewAdminTeam(row);
  }

  /** Ends their sessions and what they made keys for. Throws `user_not_found`, `last_admin`. */
  async deactivate(caller: Caller, userId: string): Promise<AdminUser> {
    const { sessions, apiKeys, audit, now } = this.#deps;
    return this.#change(userId, async (transaction) => {
      await requireOtherAdmin(transaction, userId);
      await setDeactivated(transaction, userId, now());
      await sessions.revokeAll(transaction, userId);
      const revoked = await apiKeys.revokeMadeBy(transaction, userId, undefined);
      await audit.record(transaction, caller, { action: "user.disable", resource: { kind: "user", id: userId } }, revoked);
    });
  }

  /** Throws `user_not_found`. */
  async activate(caller: Caller, userId: string): Promise<AdminUser> {
    return this.#change(userId, async (transaction) => {
      await setDeactivated(transaction, userId, null);
      await this.#deps.audit.record(transaction, caller, { action: "user.enable", resource: { kind: "user", id: userId } });
    });
  }

  /** Throws `user_not_found`, `last_admin`. */
  async setAdmin(caller: Caller, userId: string, isAdmin: boolean): Promise<AdminUser> {
    return this.#change(userId, async (transaction) => {
      if (!isAdmin) await requireOtherAdmin(transaction, userId);
      await setAdmin(transaction, userId, isAdmin);
      const revoked = isAdmin ? [] : await this.#deps.apiKeys.revokeMadeBy(transaction, userId, undefined, platformScopes);
      const action = isAdmin ? "user.admin_grant" : "user.admin_revoke";
      await this.#deps.audit.record(transaction, caller, { action, resource: { kind: "user", id: userId } }, revoked);
    });
  }

  async #change(userId: string, change: (transaction: Db) => Promise<void>): Promise<AdminUser> {
    const { db, sessions, apiKeys } = this.#deps;
    const row = await db.transaction().execute(async (transaction) => {
      await lockAdmins(transaction); // first, in the same order for all: nobody waits for somebody who waits for them
      if ((await lockUser(transaction, userId)) === undefined) throw noUser(userId);
      await change(transaction);
      return findAdminUser(transaction, userId);
    });
    sessions.forget();
    apiKeys.forget();
    if (row === undefined) throw noUser(userId);
    return viewAdminUser(row);
  }
}

/** In a transaction that has locked the admins. */
async function requireOtherAdmin(transaction: Db, userId: string): Promise<void> {
  const admins = await lockAdmins(transaction);
  if (admins.length === 1 && admins[0] === userId) {
    throw new PlatformError("last_admin", "this is the platform's only admin; make somebody else one first");
  }
}

function positionOf(cursor: string | undefined): PagePosition | undefined {
  if (cursor === undefined) return undefined;
  const position = decodePosition(cursor);
  // an id, or the database may refuse what it is asked to compare
  if (position === undefined || !/^[a-z0-9]{1,40}$/.test(position.key)) {
    throw new PlatformError("request_invalid", "cursor: this is not the `next_cursor` of a page");
  }
  return position;
}

function nextCursor(rows: readonly { readonly id: string; readonly time_created: Date }[], limit: number): string | null {
  const last = rows.length > limit ? rows[limit - 1] : undefined;
  return last === undefined ? null : encodePosition({ time: last.time_created, key: last.id });
}

function viewAdminTeam(row: AdminTeamRow): AdminTeam {
  const { id, name, slug, member_count, sandbox_count, owners } = row;
  return { id, name, slug, quota: quotaOf(row), created_at: row.time_created.toISOString(), member_count, sandbox_count, owners };
}

function viewAdminUser(row: AdminUserRow): AdminUser {
  return {
    ...viewUser(row),
    is_active: row.time_deactivated === null,
    team_count: row.team_count,
    last_active_at: row.time_last_used?.toISOString() ?? null,
  };
}

function noTeam(id: string): PlatformError {
  return new PlatformError("team_not_found", `there is no team "${id}"`);
}

function noUser(id: string): PlatformError {
  return new PlatformError("user_not_found", `there is no user "${id}"`);
}
