import type { Invitation, Member } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import type { InvitationRow, MemberRow } from "../../db/members.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";
import { sessionOf } from "./auth.ts";

/** Teams, their members, and who is asked to join. */
export function addTeamRoutes(app: FastifyInstance, { accounts }: Services): void {
  const { members } = accounts;
  addRoute(app, "listTeams", 200, async ({ caller }) => ({ teams: await members.listTeams(caller) }));
  addRoute(app, "createTeam", 201, async ({ caller, body }) => members.createTeam(sessionOf(caller), body.name));
  addRoute(app, "getTeam", 200, async ({ caller, params }) => members.getTeam(caller, params.team));
  addRoute(app, "updateTeam", 200, async ({ caller, params, body }) => members.renameTeam(caller, params.team, body.name));
  addRoute(app, "deleteTeam", 204, async ({ caller, params }) => members.deleteTeam(caller, params.team));
  addRoute(app, "transferTeam", 200, async ({ caller, params, body }) => ({
    members: (await members.transfer(caller, params.team, body.user_id)).map(viewMember),
  }));
  addRoute(app, "leaveTeam", 204, async ({ caller, params }) => members.remove(caller, params.team, caller.actor.id));
  addRoute(app, "listMembers", 200, async ({ caller, params }) => ({ members: (await members.list(caller, params.team)).map(viewMember) }));
  addRoute(app, "setMemberRole", 200, async ({ caller, params, body }) =>
    viewMember(await members.setRole(caller, params.team, params.user, body.role)),
  );
  addRoute(app, "removeMember", 204, async ({ caller, params }) => members.remove(caller, params.team, params.user));
  addRoute(app, "listInvitations", 200, async ({ caller, params }) => ({
    invitations: (await members.listInvitations(caller, params.team)).map(viewInvitation),
  }));
  addRoute(app, "invite", 201, async ({ caller, params, body }) => viewInvitation(await members.invite(caller, params.team, body)));
  addRoute(app, "revokeInvitation", 204, async ({ caller, params }) => members.revokeInvitation(caller, params.team, params.invitation));
  addRoute(app, "acceptInvitation", 200, async ({ caller, body }) => members.accept(sessionOf(caller), body.token));
}

function viewMember(row: MemberRow): Member {
  return { user_id: row.user_id, name: row.name, email: row.email, role: row.role, joined_at: row.time_created.toISOString() };
}

function viewInvitation(row: InvitationRow): Invitation {
  return {
    id: row.id,
    email: row.email,
    role: row.role,
    invited_by: row.invited_by,
    created_at: row.time_created.toISOString(),
    expires_at: row.time_expires.toISOString(),
  };
}
