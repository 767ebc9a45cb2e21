import type { AdminTeam, AdminUser, TeamQuota } from "@roost/contract";

import type { Api } from "./api.ts";
import type { RequestOptions } from "./connection.ts";

/** All teams and users, for admins of the platform. */
export class Administration {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  /** Newest first; further pages are fetched as they are reached. */
  async *teams(options: RequestOptions = {}): AsyncGenerator<AdminTeam, void, void> {
    let cursor: string | undefined;
    do {
      const page = await this.#api.call("adminListTeams", { query: { cursor } }, options);
      yield* page.teams;
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined);
  }

  /** Newest first; further pages are fetched as they are reached. */
  async *users(options: RequestOptions = {}): AsyncGenerator<AdminUser, void, void> {
    let cursor: string | undefined;
    do {
      const page = await this.#api.call("adminListUsers", { query: { cursor } }, options);
      yield* page.users;
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined);
  }

  /** What is left out is unlimited. */
  async setQuota(teamId: string, quota: Partial<TeamQuota>, options: RequestOptions = {}): Promise<AdminTeam> {
    return this.#api.call("adminSetQuota", { path: { team: teamId }, body: quota }, options);
  }

  /** Ends their sessions and revokes the API keys that they made. */
  async deactivate(userId: string, options: RequestOptions = {}): Promise<AdminUser> {
    return this.#api.call("adminDeactivateUser", { path: { user: userId } }, options);
  }

  async activate(userId: string, options: RequestOptions = {}): Promise<AdminUser> {
    return this.#api.call("adminActivateUser", { path: { user: userId } }, options);
  }

  async setAdmin(userId: string, isAdmin: boolean, options: RequestOptions = {}): Promise<AdminUser> {
    return this.#api.call("adminSetAdmin", { path: { user: userId }, body: { is_admin: isAdmin } }, options);
  }
}
