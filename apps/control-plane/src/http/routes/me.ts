import type { Session } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import type { SessionRow } from "../../db/sessions.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";
import { sessionOf } from "./auth.ts";

/** What callers know and change of themselves. */
export function addMeRoutes(app: FastifyInstance, { accounts }: Services): void {
  const { profiles, logins, passwordChanges, sessions, cookies } = accounts;
  addRoute(app, "getMe", 200, async ({ caller }) => profiles.get(caller));
  addRoute(app, "updateMe", 200, async ({ caller, body }) => profiles.rename(sessionOf(caller), body.name));
  addRoute(app, "deleteMe", 204, async ({ caller, body, reply }) => {
    await profiles.delete(sessionOf(caller), body.confirmation);
    cookies.clear(reply, "session");
  });
  addRoute(app, "switchTeam", 200, async ({ caller, body }) => profiles.switchTeam(sessionOf(caller), body.team_id));
  addRoute(app, "changePassword", 204, async ({ caller, body }) => passwordChanges.change(sessionOf(caller), body));
  addRoute(app, "disconnectProvider", 204, async ({ caller, params }) => profiles.disconnect(sessionOf(caller), params.provider));
  addRoute(app, "listSessions", 200, async ({ caller }) => {
    const { sessionId } = sessionOf(caller);
    return { sessions: (await sessions.list(caller.actor.id)).map((row) => viewSession(row, sessionId)) };
  });
  addRoute(app, "revokeSession", 204, async ({ caller, params }) => logins.revoke(sessionOf(caller), params.session));
  addRoute(app, "revokeOtherSessions", 204, async ({ caller }) => logins.revoke(sessionOf(caller), null));
}

function viewSession(row: SessionRow, currentId: string): Session {
  return {
    id: row.id,
    is_current: row.id === currentId,
    client: row.client,
    address: row.address,
    created_at: row.time_created.toISOString(),
    last_used_at: row.time_last_used.toISOString(),
    expires_at: row.time_expires.toISOString(),
  };
}
