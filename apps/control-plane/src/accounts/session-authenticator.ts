import { PlatformError, sessionTokenPattern, teamIdPattern } from "@roost/contract";

import type { SessionIdentity } from "../db/sessions.ts";
import { bearerIn, type Authenticator, type Credentials } from "../http/authentication.ts";
import { requireSameOrigin } from "../http/origin.ts";
import type { CookieJar } from "../http/session-cookie.ts";
import { scopesOfUser, type Caller } from "./caller.ts";
import { noTeamId } from "./requester.ts";
import type { Sessions } from "./sessions.ts";

const safeMethods = new Set(["GET", "HEAD", "OPTIONS"]);

/** A caller who signed in, and the session in which. */
export interface SessionCaller extends Caller {
  readonly sessionId: string;
}

export function isSessionCaller(caller: Caller): caller is SessionCaller {
  return "sessionId" in caller;
}

/**
 * By `Authorization: Bearer session_…`, or by the cookie. Browsers add a cookie to what any page asks for, so with one, whatever changes
 * something, or opens a WebSocket, has to come from a page of ours.
 */
export class SessionAuthenticator implements Authenticator {
  readonly #sessions: Sessions;
  readonly #cookies: CookieJar;
  readonly #origins: readonly string[];

  /** `origins`: whose pages may act for their visitors, besides those of the host that is asked */
  constructor(sessions: Sessions, cookies: CookieJar, origins: readonly string[]) {
    this.#sessions = sessions;
    this.#cookies = cookies;
    this.#origins = origins;
  }

  async identify({ request, requestId, address }: Credentials): Promise<SessionCaller | undefined> {
    const { headers } = request;
    const bearer = bearerIn(headers, /^session_/);
    const token = bearer ?? this.#cookies.read(headers, "session");
    if (token === undefined || token === "") return undefined;
    const identity = sessionTokenPattern.test(token) ? await this.#sessions.find(token) : undefined;
    if (identity === undefined) throw new PlatformError("api_key_invalid", "this session is over; sign in again");
    const isChange = !safeMethods.has(request.method ?? "") || headers.upgrade !== undefined;
    if (bearer === undefined && isChange) requireSameOrigin(headers, this.#origins);
    return callerOf(identity, teamOf(identity, headers["x-team-id"]), requestId, address);
  }
}

/** The team that the request names, else the session's; undefined: none, also when the user is in that one no more. Nobody is made to act for another. */
function teamOf({ session, roles }: SessionIdentity, named: string | string[] | undefined): string | undefined {
  if (named !== undefined) {
    if (typeof named !== "string" || !teamIdPattern.test(named) || !roles.has(named)) {
      throw new PlatformError("team_not_found", `X-Team-Id: you are in no team with this id; GET /v1/teams lists yours`);
    }
    return named;
  }
  return session.team_id !== null && roles.has(session.team_id) ? session.team_id : undefined;
}

function callerOf(
  { session, user, roles }: SessionIdentity,
  teamId: string | undefined,
  requestId: string,
  address: string | null,
): SessionCaller {
  const role = teamId === undefined ? undefined : roles.get(teamId);
  return {
    actor: { kind: "user", id: user.id, name: user.name },
    teamId: teamId ?? noTeamId,
    role: role ?? null,
    scopes: scopesOfUser(role ?? null, user.is_admin),
    isAdmin: user.is_admin,
    requestId,
    address,
    sessionId: session.id,
  };
}
