import type { Caller } from "./caller.ts";
import type { UserRow } from "../db/users.ts";

/** Where a request came from that nobody has signed in for yet. */
export interface Requester {
  readonly requestId: string;
  readonly address: string | null;
  /** What the client says it is */
  readonly client: string;
}

/** Team of a caller that acts for none: no team has the id, so nothing is found, and it has no scopes */
export const noTeamId = "";

/** For the audit log: a user who is being signed in, or was asked for. */
export function userCaller(user: Pick<UserRow, "id" | "name"> | undefined, { requestId, address }: Requester): Caller {
  return {
    actor: { kind: "user", id: user?.id ?? "unknown", name: user?.name ?? "unknown" },
    teamId: noTeamId,
    role: null,
    scopes: new Set(),
    isAdmin: false,
    requestId,
    address,
  };
}
