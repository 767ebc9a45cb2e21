import type { Invitation, InviteInput, Member, OwnTeam } from "@roost/contract";

import type { Api } from "./api.ts";
import type { RequestOptions } from "./connection.ts";

/** Teams and who is in them. All but `list`, `create` and `accept` is about the team that the client acts for. */
export class Teams {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  /** By name. */
  async list(options: RequestOptions = {}): Promise<OwnTeam[]> {
    return (await this.#api.call("listTeams", {}, options)).teams;
  }

  async create(name: string, options: RequestOptions = {}): Promise<OwnTeam> {
    return this.#api.call("createTeam", { body: { name } }, options);
  }

  async get(id: string, options: RequestOptions = {}): Promise<OwnTeam> {
    return this.#api.call("getTeam", { path: { team: id } }, options);
  }

  async rename(id: string, name: string, options: RequestOptions = {}): Promise<OwnTeam> {
    return this.#api.call("updateTeam", { path: { team: id }, body: { name } }, options);
  }

  /** Refused while it has sandboxes. */
  async delete(id: string, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("deleteTeam", { path: { team: id } }, options);
  }

  /** In the order in which they joined. */
  async members(id: string, options: RequestOptions = {}): Promise<Member[]> {
    return (await this.#api.call("listMembers", { path: { team: id } }, options)).members;
  }

  async setRole(id: string, userId: string, role: "member" | "admin", options: RequestOptions = {}): Promise<Member> {
    return this.#api.call("setMemberRole", { path: { team: id, user: userId }, body: { role } }, options);
  }

  async removeMember(id: string, userId: string, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("removeMember", { path: { team: id, user: userId } }, options);
  }

  async leave(id: string, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("leaveTeam", { path: { team: id } }, options);
  }

  /** Makes a member the owner, and oneself an admin. */
  async transfer(id: string, userId: string, options: RequestOptions = {}): Promise<Member[]> {
    return (await this.#api.call("transferTeam", { path: { team: id }, body: { user_id: userId } }, options)).members;
  }

  /** Those that can still be accepted. */
  async invitations(id: string, options: RequestOptions = {}): Promise<Invitation[]> {
    return (await this.#api.call("listInvitations", { path: { team: id } }, options)).invitations;
  }

  /** By mail. */
  async invite(id: string, input: InviteInput, options: RequestOptions = {}): Promise<Invitation> {
    return this.#api.call("invite", { path: { team: id }, body: input }, options);
  }

  async revokeInvitation(id: string, invitationId: string, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("revokeInvitation", { path: { team: id, invitation: invitationId } }, options);
  }

  /** Joins the team of an invitation to one's own address, with the token of its mail. */
  async accept(token: string, options: RequestOptions = {}): Promise<OwnTeam> {
    return this.#api.call("acceptInvitation", { body: { token } }, options);
  }
}
