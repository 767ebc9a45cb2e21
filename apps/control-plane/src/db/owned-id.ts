/** Names something that is a team's. What another team has of that id is not found. A record of it is one. */
export interface OwnedId {
  readonly id: string;
  readonly team_id: string;
}

export function ownedBy(teamId: string, id: string): OwnedId {
  return { id, team_id: teamId };
}
