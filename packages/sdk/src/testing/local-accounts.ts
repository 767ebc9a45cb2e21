import {
  defaultTeamId,
  newId,
  newToken,
  scopesOfRole,
  teamQuotaSchema,
  type AdminTeam,
  type AdminUser,
  type Invitation,
  type Me,
  type Member,
  type OwnTeam,
  type Session,
  type SignedIn,
  type TeamQuota,
  type TeamRole,
  type User,
} from "@roost/contract";

import { FakeError, type FakeCall, type FakeHandlers } from "./fake-call.ts";

const firstInstant = "2026-01-01T00:00:00.000Z";

/** One person, Ada, who owns all teams, and whoever she invites: enough to see what clients send, and what they make of answers. */
export class LocalAccounts {
  readonly user: User = { id: newId("u"), email: "ada@example.org", name: "Ada", is_admin: true, created_at: firstInstant };
  password = "correct horse battery";
  /** Of mails: sign-ups, resets, invitations */
  readonly tokens = new Set<string>();
  readonly teams = new Map<string, OwnTeam>();
  readonly members = new Map<string, Member[]>();
  readonly invitations = new Map<string, Invitation>();
  readonly sessions: Session[] = [];
  currentTeamId: string = defaultTeamId;
  readonly #sessionToken: string;

  constructor(sessionToken: string) {
    this.#sessionToken = sessionToken;
    this.addTeam(defaultTeamId, "default");
    for (const isCurrent of [true, false]) this.sessions.push(this.#newSession(isCurrent));
  }

  addTeam(id: string, name: string): OwnTeam {
    const team: OwnTeam = { id, name, slug: name.toLowerCase(), quota: teamQuotaSchema.parse({}), created_at: firstInstant, role: "owner" };
    this.teams.set(id, team);
    this.members.set(id, [this.#memberOf(this.user, "owner")]);
    return team;
  }

  handlers(): FakeHandlers["http"] {
    return { ...this.#signInHandlers(), ...this.#meHandlers(), ...this.#teamHandlers(), ...this.#adminHandlers() };
  }

  #signInHandlers(): FakeHandlers["http"] {
    return {
      signInMethods: () => ({ sign_up: "invite", is_first: false, has_mail: true, github: true }),
      signUp: () => ({ state: "confirm", signed_in: null }),
      confirmAddress: (call) => this.#useToken(call, this.#signIn()),
      login: ({ body }) => {
        const { email, password } = body as { email: string; password: string };
        const isRight = email === this.user.email && password === this.password;
        if (!isRight) throw new FakeError("login_failed", "the e-mail address or the password is wrong");
        return this.#signIn();
      },
      logout: () => undefined,
      askPasswordReset: () => undefined,
      resetPassword: (call) => {
        this.#useToken(call, undefined);
        this.password = (call.body as { new_password: string }).new_password;
      },
      startGithub: ({ query, response }) => void response.writeHead(302, { location: query.get("return_to") ?? "/" }).end(),
      finishGithub: ({ response }) => void response.writeHead(302, { location: "/" }).end(),
      exchangeCode: () => this.#signIn(),
    };
  }

  #meHandlers(): FakeHandlers["http"] {
    return {
      getMe: () => this.#me(),
      updateMe: ({ body }) => {
        this.user.name = (body as { name: string }).name;
        return this.#me();
      },
      deleteMe: ({ body }) => {
        const { confirmation } = body as { confirmation: string };
        if (confirmation !== this.user.email) throw new FakeError("request_invalid", "confirmation: write your account's e-mail address");
      },
      switchTeam: ({ body }) => {
        this.currentTeamId = this.#team((body as { team_id: string }).team_id).id;
        return this.#me();
      },
      changePassword: ({ body }) => {
        const { current_password: current, new_password: wanted } = body as { current_password?: string; new_password: string };
        if (current !== this.password) throw new FakeError("password_wrong", "current_password is not the account's present password");
        this.password = wanted;
      },
      disconnectProvider: () => undefined,
      listSessions: () => ({ sessions: this.sessions }),
      revokeSession: ({ parameters }) => {
        const index = this.sessions.findIndex(({ id }) => id === parameters["session"]);
        if (index < 0) throw new FakeError("session_not_found", "you have no such session");
        this.sessions.splice(index, 1);
      },
      revokeOtherSessions: () => void this.sessions.splice(1),
    };
  }

  #teamHandlers(): FakeHandlers["http"] {
    const teamOf = ({ parameters }: FakeCall) => this.#team(parameters["team"] ?? "");
    const membersOf = (call: FakeCall) => this.members.get(teamOf(call).id) ?? [];
    const memberOf = (call: FakeCall, userId = call.parameters["user"]) => {
      const member = membersOf(call).find(({ user_id: id }) => id === userId);
      if (member === undefined) throw new FakeError("member_not_found", "the team has no such member");
      return member;
    };
    return {
      listTeams: () => ({ teams: [...this.teams.values()] }),
      createTeam: ({ body }) => this.addTeam(newId("g"), (body as { name: string }).name),
      getTeam: (call) => teamOf(call),
      updateTeam: (call) => Object.assign(teamOf(call), call.body),
      deleteTeam: (call) => void this.teams.delete(teamOf(call).id),
      transferTeam: (call) => {
        memberOf(call, (call.body as { user_id: string }).user_id).role = "owner";
        return { members: membersOf(call) };
      },
      leaveTeam: () => {
        throw new FakeError("last_owner", "a team's only owner cannot go");
      },
      listMembers: (call) => ({ members: membersOf(call) }),
      setMemberRole: (call) => Object.assign(memberOf(call), call.body),
      removeMember: (call) => {
        const all = membersOf(call);
        all.splice(all.indexOf(memberOf(call)), 1);
      },
      listInvitations: () => ({ invitations: [...this.invitations.values()] }),
      invite: ({ body }) => {
        const { email, role } = body as { email: string; role: TeamRole };
        const made: Invitation = {
          id: newId("v"),
          email,
          role,
          invited_by: this.user.name,
          created_at: firstInstant,
          expires_at: firstInstant,
        };
        this.invitations.set(made.id, made);
        this.tokens.add(newToken());
        return made;
      },
      revokeInvitation: ({ parameters }) => {
        if (!this.invitations.delete(parameters["invitation"] ?? ""))
          throw new FakeError("invitation_not_found", "there is no such invitation");
      },
      acceptInvitation: (call) => this.#useToken(call, this.#team(defaultTeamId)),
    };
  }

  #adminHandlers(): FakeHandlers["http"] {
    const adminTeam = (team: OwnTeam): AdminTeam => {
      const { role: _role, ...rest } = team;
      return { ...rest, member_count: this.members.get(team.id)?.length ?? 0, owners: [this.user.email], sandbox_count: 0 };
    };
    const adminUser = (): AdminUser => ({ ...this.user, is_active: true, team_count: this.teams.size, last_active_at: null });
    return {
      adminListTeams: () => ({ teams: [...this.teams.values()].map(adminTeam), next_cursor: null }),
      adminSetQuota: ({ parameters, body }) => {
        const team = this.#team(parameters["team"] ?? "");
        team.quota = body as TeamQuota;
        return adminTeam(team);
      },
      adminListUsers: () => ({ users: [adminUser()], next_cursor: null }),
      adminDeactivateUser: () => {
        throw new FakeError("last_admin", "this is the platform's only admin");
      },
      adminActivateUser: () => adminUser(),
      adminSetAdmin: ({ body }) => ({ ...adminUser(), ...(body as { is_admin: boolean }) }),
    };
  }

  #team(id: string): OwnTeam {
    const team = this.teams.get(id);
    if (team === undefined) throw new FakeError("team_not_found", `there is no team "${id}" that you act for`);
    return team;
  }

  #useToken<Answer>({ body }: FakeCall, answer: Answer): Answer {
    if (!this.tokens.delete((body as { token: string }).token)) throw new FakeError("token_invalid", "this link cannot be used");
    return answer;
  }

  #signIn(): SignedIn {
    return { user: this.user, team_id: this.currentTeamId, token: this.#sessionToken, expires_at: firstInstant };
  }

  #me(): Me {
    return {
      actor: { kind: "user", id: this.user.id, name: this.user.name },
      user: this.user,
      has_password: true,
      providers: ["github"],
      team_id: this.currentTeamId,
      role: "owner",
      scopes: [...scopesOfRole.owner],
      is_admin: this.user.is_admin,
      teams: [...this.teams.values()].map(({ id, name, slug, role }) => ({ id, name, slug, role: role ?? "member" })),
    };
  }

  #memberOf({ id, name, email }: User, role: TeamRole): Member {
    return { user_id: id, name, email, role, joined_at: firstInstant };
  }

  #newSession(isCurrent: boolean): Session {
    const instants = { created_at: firstInstant, last_used_at: firstInstant, expires_at: firstInstant };
    return { id: crypto.randomUUID(), is_current: isCurrent, client: "test", address: "192.0.2.1", ...instants };
  }
}
