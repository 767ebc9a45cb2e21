import type { ChangePasswordInput, Me, Session } from "@roost/contract";

import type { Api } from "./api.ts";
import type { RequestOptions } from "./connection.ts";

/** Who asks. All but `get` is for people who are signed in, not for API keys. */
export class Account {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  /** Also of an API key. */
  async get(options: RequestOptions = {}): Promise<Me> {
    return this.#api.call("getMe", {}, options);
  }

  async rename(name: string, options: RequestOptions = {}): Promise<Me> {
    return this.#api.call("updateMe", { body: { name } }, options);
  }

  /** Ends all other sessions. */
  async changePassword(input: ChangePasswordInput, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("changePassword", { body: input }, options);
  }

  /** The team that this session acts for from now on. */
  async switchTeam(teamId: string, options: RequestOptions = {}): Promise<Me> {
    return this.#api.call("switchTeam", { body: { team_id: teamId } }, options);
  }

  /** Newest first. */
  async sessions(options: RequestOptions = {}): Promise<Session[]> {
    return (await this.#api.call("listSessions", {}, options)).sessions;
  }

  /** It ends within a second. */
  async revokeSession(id: string, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("revokeSession", { path: { session: id } }, options);
  }

  async revokeOtherSessions(options: RequestOptions = {}): Promise<void> {
    await this.#api.call("revokeOtherSessions", {}, options);
  }

  async disconnect(provider: "github", options: RequestOptions = {}): Promise<void> {
    await this.#api.call("disconnectProvider", { path: { provider } }, options);
  }

  /** Ends this session. */
  async logout(options: RequestOptions = {}): Promise<void> {
    await this.#api.call("logout", {}, options);
  }

  /** `confirmation`: the account's e-mail address. */
  async delete(confirmation: string, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("deleteMe", { body: { confirmation } }, options);
  }
}
