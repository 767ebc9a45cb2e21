import { isScope, PlatformError, type Access } from "@roost/contract";

import { requireScope, type Caller } from "../accounts/caller.ts";

/**
 * Whether a caller may call what has this `access`; throws when not. This is the one place that decides it, for all routes and before a body is
 * read. Whose things the caller then gets at is decided by its team, in the services: those of others are not found.
 */
export function authorize(caller: Caller, access: Exclude<Access, "open">): void {
  if (access === "session" && caller.actor.kind !== "user") {
    throw new PlatformError("session_required", "API keys cannot do this, only people who are signed in: `roost login`, or the dashboard");
  }
  if (isScope(access)) requireScope(caller, access);
}
