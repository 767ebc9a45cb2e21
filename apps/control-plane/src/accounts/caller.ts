import { allScopes, PlatformError, platformScopes, scopesOfRole, type Scope, type TeamRole } from "@roost/contract";

/** Who asks, on behalf of one team. */
export interface Caller {
  readonly actor: Actor;
  readonly teamId: string;
  /** In that team; null: an API key, which has scopes instead */
  readonly role: TeamRole | null;
  readonly scopes: ReadonlySet<Scope>;
  /** Of the platform */
  readonly isAdmin: boolean;
  /** For the audit log, as `address` */
  readonly requestId: string;
  /** Where the request came from; null: from nowhere outside */
  readonly address: string | null;
}

export interface Actor {
  readonly kind: "api_key" | "user" | "host" | "system";
  readonly id: string;
  /** For people: may change, and two may have the same */
  readonly name: string;
}

/** For what the platform does of its own accord, or goes on with for somebody who has had their answer. */
export function systemCaller(teamId: string, requestId = "system"): Caller {
  return {
    actor: { kind: "system", id: "system", name: "Roost" },
    teamId,
    role: null,
    scopes: allScopes,
    isAdmin: true,
    requestId,
    address: null,
  };
}

/** What a signed-in user may do in a team (null: in none); admins of the platform may see to hosts besides. */
export function scopesOfUser(role: TeamRole | null, isAdmin: boolean): ReadonlySet<Scope> {
  const ofTeam: ReadonlySet<Scope> = role === null ? new Set() : scopesOfRole[role];
  return isAdmin ? new Set([...ofTeam, ...platformScopes]) : ofTeam;
}

/** Throws when the caller does not have the scope. */
export function requireScope(caller: Caller, scope: Scope): void {
  if (caller.scopes.has(scope)) return;
  if (platformScopes.has(scope) && !caller.isAdmin) {
    throw new PlatformError("admin_only", `only admins of the platform may do this: it needs the scope ${scope}`);
  }
  const has = [...caller.scopes].join(", ") || "none";
  throw new PlatformError("scope_missing", `this needs the scope ${scope}; ${describeRights(caller)} has ${has}`);
}

function describeRights({ actor, role }: Caller): string {
  if (actor.kind === "api_key") return `the API key "${actor.name}"`;
  return role === null ? "a user who acts for no team" : `the role ${role} in this team`;
}
