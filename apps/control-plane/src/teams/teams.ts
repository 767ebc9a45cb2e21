import { PlatformError } from "@roost/contract";

import type { Db } from "../db/database.ts";
import { findTeam } from "../db/teams.ts";

/** What there is to know of teams, whoever is in them (./members.ts). */
export class Teams {
  readonly #db: Db;

  constructor(db: Db) {
    this.#db = db;
  }

  /** For people. The caller's team: that it is gone can only have happened a moment ago. */
  async nameOf(teamId: string): Promise<string> {
    const team = await findTeam(this.#db, teamId);
    if (team === undefined) throw new PlatformError("api_key_invalid", "the team that this key is for was deleted");
    return team.name;
  }
}
