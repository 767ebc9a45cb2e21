import {
  adminOnlyScopes,
  defaultTeamId,
  newId,
  PlatformError,
  type InviteInput,
  type OwnTeam,
  type Scope,
  type TeamRole,
} from "@roost/contract";
import { hour } from "@roost/kit";

import { requireScope, systemCaller, type Caller } from "../accounts/caller.ts";
import { addressKey, type Attempts } from "../accounts/attempts.ts";
import { invitationInvalid } from "../accounts/new-accounts.ts";
import { hashOfSecret, newSecret } from "../accounts/secrets.ts";
import type { SessionCaller } from "../accounts/session-authenticator.ts";
import type { Sessions } from "../accounts/sessions.ts";
import { sessionOver } from "../accounts/profiles.ts";
import type { Audit, PendingEntry } from "../audit/audit.ts";
import type { Db } from "../db/database.ts";
import {
  countLiveSandboxes,
  countOwners,
  deleteInvitation,
  deleteInvitationsBy,
  deleteMembership,
  findInvitedTo,
  findMember,
  findMembership,
  insertInvitation,
  insertMembership,
  isMemberWithEmail,
  listInvitations,
  listMembers,
  listTeamsOf,
  markTeamDeleted,
  renameTeam,
  setRole,
  takeInvitation,
  type InvitationRow,
  type MemberRow,
} from "../db/members.ts";
import { findTeam, insertTeam, lockTeam, quotaOf, type TeamRow } from "../db/teams.ts";
import { confirmEmail, lockUser } from "../db/users.ts";
import type { Mails } from "../mail/mails.ts";
import type { ApiKeys } from "./api-keys.ts";
import { newSlug } from "./slug.ts";
import { tellOfTeam } from "./team-events.ts";

/** Teams that one user may own: each is a namespace, and has quotas of its own */
const ownedTeamsMax = 20;
/** Invitations of a team that wait for an answer */
const invitationsMax = 100;
const invitationTimeMs = 7 * 24 * hour;

export interface MembersDependencies {
  readonly db: Db;
  readonly sessions: Sessions;
  readonly apiKeys: ApiKeys;
  readonly attempts: Attempts;
  readonly mails: Mails;
  readonly audit: Audit;
  readonly now: () => Date;
}

/**
 * Teams, who is in them, and who is asked to be. Whoever changes that locks the team first, so that two changes never both rely on what the other
 * undoes: a team has an owner at every moment. Nobody is in a team without having said so, and nobody can find out who has an account.
 */
export class Members {
  readonly #deps: MembersDependencies;

  constructor(deps: MembersDependencies) {
    this.#deps = deps;
  }

  /** Those of a user; of an API key its own. */
  async listTeams(caller: Caller): Promise<OwnTeam[]> {
    const { db } = this.#deps;
    if (caller.actor.kind === "user") return (await listTeamsOf(db, caller.actor.id)).map((team) => viewOwnTeam(team, team.role));
    const team = await findTeam(db, caller.teamId);
    return team === undefined ? [] : [viewOwnTeam(team, null)];
  }

  /** Throws `team_not_found`, also for a team that the caller does not act for at this moment. */
  async getTeam(caller: Caller, teamId: string): Promise<OwnTeam> {
    const team = caller.teamId === teamId ? await findTeam(this.#deps.db, teamId) : undefined;
    if (team === undefined) throw teamNotFound(teamId);
    return viewOwnTeam(team, caller.role);
  }

  /** Throws `team_limit`. */
  async createTeam(caller: SessionCaller, name: string): Promise<OwnTeam> {
    const { db, sessions, audit, now } = this.#deps;
    const team = await db.transaction().execute(async (transaction) => {
      if ((await lockUser(transaction, caller.actor.id)) === undefined) throw sessionOver(); // also of two at the same moment, the second counts the first
      const others = await listTeamsOf(transaction, caller.actor.id);
      if (others.filter((other) => other.role === "owner").length >= ownedTeamsMax) {
        throw new PlatformError("team_limit", `you own ${ownedTeamsMax} teams, which is the most; delete one or hand one over first`);
      }
      const made = await insertTeam(transaction, { id: newId("g"), name, slug: newSlug(name), timeCreated: now() });
      if (made === undefined) throw new PlatformError("internal", "the new team's slug is taken; try again");
      await insertMembership(transaction, made.id, caller.actor.id, "owner", now());
      const resource = { kind: "team", id: made.id };
      await tellOfTeam(transaction, "team.created", made.id, caller, `team "${name}" was created`);
      await audit.record(transaction, caller, { action: "team.create", resource, teamId: made.id, detail: { name } });
      return made;
    });
    sessions.forget();
    return viewOwnTeam(team, "owner");
  }

  async renameTeam(caller: Caller, teamId: string, name: string): Promise<OwnTeam> {
    const team = await this.#change(caller, teamId, async (transaction) => {
      const renamed = await renameTeam(transaction, teamId, name);
      await tellOfTeam(transaction, "team.updated", teamId, caller, `the team is called "${name}" now`, { name });
      await this.#deps.audit.record(transaction, caller, {
        action: "team.update",
        resource: { kind: "team", id: teamId },
        detail: { name },
      });
      return renamed;
    });
    if (team === undefined) throw teamNotFound(teamId);
    return viewOwnTeam(team, caller.role);
  }

  /** Throws `owner_only`, `team_in_use`. */
  async deleteTeam(caller: Caller, teamId: string): Promise<void> {
    await this.#change(caller, teamId, async (transaction) => {
      await requireOwner(transaction, caller, teamId);
      if (teamId === defaultTeamId) {
        throw new PlatformError("team_in_use", "the platform's first team stays: the platform's own API key acts for it");
      }
      const count = await countLiveSandboxes(transaction, teamId);
      if (count > 0) throw new PlatformError("team_in_use", `the team has ${count} sandboxes that have not ended; delete them first`);
      const resource = { kind: "team", id: teamId };
      await markTeamDeleted(transaction, teamId, this.#deps.now());
      await tellOfTeam(transaction, "team.deleted", teamId, caller, "the team was deleted");
      await this.#deps.audit.record(transaction, caller, { action: "team.delete", resource });
    });
  }

  /** Throws `owner_only`, `member_not_found`. */
  async transfer(caller: Caller, teamId: string, userId: string): Promise<MemberRow[]> {
    return this.#change(caller, teamId, async (transaction) => {
      await requireOwner(transaction, caller, teamId);
      // Somebody who is deleting their account at this moment has looked already whether they own a team
      if ((await lockUser(transaction, userId)) === undefined) throw noMember(userId);
      await requireMember(transaction, teamId, userId);
      if (userId !== caller.actor.id) {
        await setRole(transaction, teamId, userId, "owner");
        await setRole(transaction, teamId, caller.actor.id, "admin");
        await tellOfTeam(transaction, "team.member_changed", teamId, caller, "the team has another owner", {
          user_id: userId,
          role: "owner",
        });
      }
      const resource = { kind: "user", id: userId };
      await this.#deps.audit.record(transaction, caller, { action: "team.transfer", resource });
      return listMembers(transaction, teamId);
    });
  }

  async list(caller: Caller, teamId: string): Promise<MemberRow[]> {
    await this.getTeam(caller, teamId);
    return listMembers(this.#deps.db, teamId);
  }

  /** Throws `member_not_found`, `owner_only`. */
  async setRole(caller: Caller, teamId: string, userId: string, role: Exclude<TeamRole, "owner">): Promise<MemberRow> {
    requireRights(caller, role);
    return this.#change(caller, teamId, async (transaction) => {
      const member = await requireMember(transaction, teamId, userId);
      if (member.role === "owner") {
        throw new PlatformError("owner_only", "an owner stays one until they hand the team over: POST /v1/teams/{team}/transfer");
      }
      await setRole(transaction, teamId, userId, role);
      const revoked = role === "member" ? await this.#disarm(transaction, teamId, userId, adminOnlyScopes) : [];
      await tellOfTeam(transaction, "team.member_changed", teamId, caller, `a member is ${role} now`, { user_id: userId, role });
      const resource = { kind: "user", id: userId };
      await this.#deps.audit.record(
        transaction,
        caller,
        {
          action: "member.role",
          resource,
          scope: "admin",
          detail: { from: member.role, to: role },
        },
        revoked,
      );
      return { ...member, role };
    });
  }

  /** The API keys that they made for the team are revoked, too, and their invitations taken back. Throws `member_not_found`, `owner_only`, `last_owner`. */
  async remove(caller: Caller, teamId: string, userId: string): Promise<void> {
    await this.#change(caller, teamId, async (transaction) => {
      const member = await requireMember(transaction, teamId, userId);
      if (member.role === "owner") {
        if ((await countOwners(transaction, teamId)) === 1) {
          throw new PlatformError("last_owner", "a team's only owner cannot go; hand the team over first, or delete it");
        }
        await requireOwner(transaction, caller, teamId);
      }
      await deleteMembership(transaction, teamId, userId);
      const revoked = await this.#disarm(transaction, teamId, userId);
      await tellOfTeam(transaction, "team.member_removed", teamId, caller, "a member is in the team no more", { user_id: userId });
      const resource = { kind: "user", id: userId };
      await this.#deps.audit.record(transaction, caller, { action: "member.remove", resource, scope: "admin" }, revoked);
    });
  }

  /** Revokes API keys of somebody who may do less from now on (those with `lost` scopes), and takes back their invitations: else they could let themselves in again by another address. */
  async #disarm(transaction: Db, teamId: string, userId: string, lost?: ReadonlySet<Scope>): Promise<readonly PendingEntry[]> {
    const revoked = await this.#deps.apiKeys.revokeMadeBy(transaction, userId, teamId, lost);
    const keys = revoked.flatMap(({ resource_id: id }) => id ?? []);
    const takenBack = await deleteInvitationsBy(transaction, teamId, [userId, ...keys]);
    const entries = takenBack.map((id) =>
      this.#deps.audit.pending(systemCaller(teamId), {
        action: "member.invitation_revoke",
        resource: { kind: "invitation", id },
        detail: { made_by: userId },
      }),
    );
    return [...revoked, ...entries];
  }

  async listInvitations(caller: Caller, teamId: string): Promise<InvitationRow[]> {
    await this.getTeam(caller, teamId);
    return listInvitations(this.#deps.db, teamId, this.#deps.now());
  }

  /** Throws `member_exists`, `invitation_limit`, `rate_limited`. */
  async invite(caller: Caller, teamId: string, { email, role = "member" }: InviteInput): Promise<InvitationRow> {
    const { attempts, mails, audit, now } = this.#deps;
    await this.getTeam(caller, teamId);
    requireRights(caller, role);
    await attempts.count("inviteTeam", teamId);
    await attempts.count("inviteMailTo", `${teamId} ${email}`);
    const token = newSecret();
    const made = await this.#change(caller, teamId, async (transaction, team) => {
      if (await isMemberWithEmail(transaction, teamId, email)) {
        throw new PlatformError("member_exists", `${email} is in the team already`);
      }
      const open = await listInvitations(transaction, teamId, now());
      if (open.length >= invitationsMax) {
        throw new PlatformError(
          "invitation_limit",
          `${invitationsMax} invitations wait for an answer, which is the most; take some back first`,
        );
      }
      const row: InvitationRow = {
        id: newId("v"),
        team_id: teamId,
        email,
        role,
        token_hash: hashOfSecret(token),
        invited_by: caller.actor.name,
        invited_by_id: caller.actor.id,
        time_created: now(),
        time_expires: new Date(now().getTime() + invitationTimeMs),
      };
      await insertInvitation(transaction, row);
      await mails.enqueue(transaction, email, mails.texts.invite(team.name, caller.actor.name, token));
      const resource = { kind: "invitation", id: row.id };
      await audit.record(transaction, caller, { action: "member.invite", resource, scope: "admin", detail: { role } });
      return row;
    });
    mails.poke();
    return made;
  }

  /** Throws `invitation_not_found`. */
  async revokeInvitation(caller: Caller, teamId: string, id: string): Promise<void> {
    await this.#change(caller, teamId, async (transaction) => {
      if ((await deleteInvitation(transaction, teamId, id)) === undefined) {
        throw new PlatformError("invitation_not_found", `the team has no invitation "${id}"; it may have been accepted already`);
      }
      const resource = { kind: "invitation", id };
      await this.#deps.audit.record(transaction, caller, { action: "member.invitation_revoke", resource, scope: "admin" });
    });
  }

  /** Throws `token_invalid`, the same whatever is wrong with it. */
  async accept(caller: SessionCaller, token: string): Promise<OwnTeam> {
    const { db, attempts, sessions, audit, now } = this.#deps;
    await attempts.count("tokenAddress", addressKey(caller.address));
    const hash = hashOfSecret(token);
    const joined = await db.transaction().execute(async (transaction) => {
      // The team first, as whoever takes the invitation back does: else each would have what the other waits for
      const teamId = await findInvitedTo(transaction, hash);
      const team = teamId === undefined ? undefined : await lockTeam(transaction, teamId);
      const user = await lockUser(transaction, caller.actor.id);
      if (user === undefined) throw sessionOver();
      const invitation = team === undefined ? undefined : await takeInvitation(transaction, hash, user.email, now());
      if (invitation === undefined || team === undefined) throw invitationInvalid();
      // They read what is sent to the account's address: the token was
      await confirmEmail(transaction, user.id, now());
      await insertMembership(transaction, team.id, user.id, invitation.role, now());
      const resource = { kind: "user", id: user.id };
      const detail = { role: invitation.role, invitation_id: invitation.id };
      await tellOfTeam(transaction, "team.member_added", team.id, caller, "somebody joined the team", {
        user_id: user.id,
        role: invitation.role,
      });
      await audit.record(transaction, caller, { action: "member.join", resource, teamId: team.id, detail });
      const membership = await findMembership(transaction, team.id, user.id);
      return viewOwnTeam(team, membership?.role ?? invitation.role);
    });
    sessions.forget();
    return joined;
  }

  /** Does something to the caller's team while nobody else does. Throws `team_not_found`. */
  async #change<Result>(caller: Caller, teamId: string, change: (transaction: Db, team: TeamRow) => Promise<Result>): Promise<Result> {
    if (caller.teamId !== teamId) throw teamNotFound(teamId);
    const result = await this.#deps.db.transaction().execute(async (transaction) => {
      const team = await lockTeam(transaction, teamId);
      if (team === undefined) throw teamNotFound(teamId);
      return change(transaction, team);
    });
    this.#deps.sessions.forget();
    this.#deps.apiKeys.forget();
    return result;
  }
}

/** Makes nobody an admin who may then do what the caller, an API key with few scopes say, may not. */
function requireRights(caller: Caller, role: TeamRole): void {
  if (role === "admin") for (const scope of adminOnlyScopes) requireScope(caller, scope);
}

/** Asked anew, where the team is locked: a request may be older than a change of its caller's role. */
async function requireOwner(transaction: Db, caller: Caller, teamId: string): Promise<void> {
  const membership = caller.actor.kind === "user" ? await findMembership(transaction, teamId, caller.actor.id) : undefined;
  if (membership?.role !== "owner") throw new PlatformError("owner_only", "only an owner of the team may do this");
}

async function requireMember(transaction: Db, teamId: string, userId: string): Promise<MemberRow> {
  const member = await findMember(transaction, teamId, userId);
  if (member === undefined) throw noMember(userId);
  return member;
}

function noMember(userId: string): PlatformError {
  return new PlatformError("member_not_found", `the team has no member "${userId}"`);
}

export function teamNotFound(teamId: string): PlatformError {
  return new PlatformError(
    "team_not_found",
    `there is no team "${teamId}" that you act for; switch to it first, or name it with X-Team-Id`,
  );
}

function viewOwnTeam(row: TeamRow, role: TeamRole | null): OwnTeam {
  return { id: row.id, name: row.name, slug: row.slug, quota: quotaOf(row), created_at: row.time_created.toISOString(), role };
}
