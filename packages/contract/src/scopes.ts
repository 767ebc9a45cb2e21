import { z } from "zod";

import type { TeamRole } from "./teams.ts";

/**
 * What a caller may do, in the words of the endpoints table. An API key has a set of scopes; a user has those of the role
 * in the team that it acts for. `write` does not include `read`.
 */
export const scopeNames = [
  "sandboxes:read",
  "sandboxes:write",
  "templates:read",
  "templates:write",
  "events:read",
  "channels:write",
  "keys:write",
  "team:read",
  "team:write",
  "usage:read",
  "audit:read",
  "hosts:read",
  "hosts:write",
  "admin",
] as const;

export const scopeSchema = z.enum(scopeNames).describe("Something that a caller may do");
export type Scope = z.infer<typeof scopeSchema>;

const memberScopes = [
  "sandboxes:read",
  "sandboxes:write",
  "templates:read",
  "templates:write",
  "events:read",
  "usage:read",
  "team:read",
] as const satisfies readonly Scope[];

const teamScopes = [...memberScopes, "channels:write", "keys:write", "team:write", "audit:read"] as const satisfies readonly Scope[];

/** Scopes about the whole platform: only its admins have them, whatever their roles in teams. */
export const platformScopes: ReadonlySet<Scope> = new Set(["hosts:read", "hosts:write", "admin"]);

/** What an owner may beyond these (deleting the team, handing it over) is asked of the role: no key can be given it. */
export const scopesOfRole: Readonly<Record<TeamRole, ReadonlySet<Scope>>> = {
  owner: new Set(teamScopes),
  admin: new Set(teamScopes),
  member: new Set(memberScopes),
};

/** What an admin of a team loses who becomes a member. */
export const adminOnlyScopes: ReadonlySet<Scope> = new Set([...scopesOfRole.admin].filter((scope) => !scopesOfRole.member.has(scope)));

export const allScopes: ReadonlySet<Scope> = new Set(scopeNames);

/**
 * Who may call an endpoint: callers with this scope (`admin`: of the platform) · `caller`: whoever is authenticated ·
 * `session`: only users who are signed in, no API keys · `open`: anybody, nothing is checked.
 */
export type Access = Scope | "caller" | "session" | "open";

export function isScope(access: Access): access is Scope {
  return allScopes.has(access as Scope);
}
