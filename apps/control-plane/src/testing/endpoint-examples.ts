import { teamQuotaSchema, type EndpointId, type ErrorCode } from "@roost/contract";

import type { Planted } from "./planted.ts";

/**
 * A request to an endpoint in which nothing is wrong, and what comes of it for a caller of another team who sends what is the first one's.
 * Every endpoint has to be here, or this does not compile; what they claim is checked by `http/authorization.test.ts`.
 */
export interface EndpointExample {
  readonly query?: string;
  readonly body?: string | ((of: Planted) => object);
  /** What `{name}` is of; default: a template */
  readonly name?: "snapshot";
  readonly elsewhere: Elsewhere;
}

export type Elsewhere =
  /** It is not found: the error says so */
  | Extract<ErrorCode, `${string}_not_found`>
  /** The request names nothing of anybody's; answers hold what is the caller's own */
  | "own"
  /** It is about the user who asks, or the session */
  | "self"
  /** It is not teams' but the platform's: its scope keeps others out */
  | "platform"
  /** Anybody may ask, and it is about nobody in particular */
  | "open";

const secret = "0".repeat(64);
const sandbox = { elsewhere: "sandbox_not_found" } as const;
const build = { elsewhere: "build_not_found" } as const;
const template = { elsewhere: "template_not_found" } as const;
const team = { elsewhere: "team_not_found" } as const;
const channel = { elsewhere: "channel_not_found" } as const;
const own = { elsewhere: "own" } as const;
const self = { elsewhere: "self" } as const;
const platform = { elsewhere: "platform" } as const;
const open = { elsewhere: "open" } as const;

export const endpointExamples: Readonly<Record<EndpointId, EndpointExample>> = {
  createSandbox: { body: ({ ids }) => ({ template: ids.name }), ...template },
  listSandboxes: own,
  getSandbox: sandbox,
  deleteSandbox: sandbox,
  pauseSandbox: sandbox,
  resumeSandbox: sandbox,
  checkpointSandbox: sandbox,
  rollbackSandbox: { body: () => ({ generation: 1 }), ...sandbox },
  listGenerations: sandbox,
  forkSandbox: { body: () => ({ count: 1 }), ...sandbox },
  pingSandbox: sandbox,
  setSandboxTimeout: { body: () => ({ timeout_sec: 5 }), ...sandbox },
  getSandboxMetrics: sandbox,
  getSandboxLogs: sandbox,

  getNetwork: sandbox,
  setNetwork: { body: () => ({ allow_internet: false, allow_out: ["example.com"], limits: { connections: 10 } }), ...sandbox },
  getPorts: sandbox,
  setPorts: { body: () => ({ access: "public" }), ...sandbox },
  getPort: sandbox,
  setPort: { body: () => ({ access: "public" }), ...sandbox },
  signPort: { body: () => ({}), ...sandbox },
  getTrafficToken: sandbox,
  rotateTrafficToken: sandbox,

  exec: { body: () => ({ cmd: "true" }), ...sandbox },
  execStream: sandbox,
  pty: sandbox,
  openTunnel: sandbox,
  listProcesses: sandbox,
  signalProcess: sandbox,
  attachProcess: sandbox,

  readFile: { query: "?path=/x", ...sandbox },
  writeFile: { query: "?path=/x", body: "data", ...sandbox },
  listFiles: { body: () => ({ path: "/" }), ...sandbox },
  statFile: { body: () => ({ path: "/" }), ...sandbox },
  makeFolder: { body: () => ({ path: "/y" }), ...sandbox },
  moveFile: { body: () => ({ source: "/a", destination: "/b" }), ...sandbox },
  removeFile: { body: () => ({ path: "/z" }), ...sandbox },
  watchFiles: { query: "?path=/", ...sandbox },

  createSnapshot: { body: ({ ids }) => ({ sandbox_id: ids.id, name: "n" }), ...sandbox },
  listSnapshots: own,
  getSnapshot: { name: "snapshot", elsewhere: "snapshot_not_found" },
  deleteSnapshot: { name: "snapshot", elsewhere: "snapshot_not_found" },

  listTemplates: own,
  getTemplate: template,
  updateTemplate: { body: () => ({ is_public: true }), ...template },
  deleteTemplate: template,
  setTemplateTag: { body: ({ ids }) => ({ build_id: ids.build }), ...template },
  removeTemplateTag: template,
  findTemplateFiles: { query: "?name=somename", ...own },
  putTemplateFiles: { query: "?name=somename", body: "data", ...own },
  createBuild: { body: () => ({ name: "n", recipe: { from: { template: "base" } } }), ...own },
  listBuilds: own,
  getBuild: build,
  cancelBuild: build,
  getBuildLogs: build,
  followBuild: build,

  listEvents: own,
  followEvents: own,
  createChannel: { body: () => ({ name: "c", kind: "webhook", config: { url: "https://example.org/" } }), ...own },
  listChannels: own,
  getChannel: channel,
  updateChannel: { body: () => ({ is_enabled: false }), ...channel },
  deleteChannel: channel,
  testChannel: channel,
  rotateChannelSecret: channel,
  listDeliveries: channel,
  retryDelivery: channel,

  listOperations: own,
  getOperation: { elsewhere: "operation_not_found" },
  listAudit: own,
  verifyAudit: own,
  getUsage: own,
  getStats: own,

  createApiKey: { body: () => ({ name: "k", scopes: ["keys:write"] }), ...own },
  listApiKeys: own,
  deleteApiKey: { elsewhere: "api_key_not_found" },

  listHosts: platform,
  createHost: { body: () => ({ name: "another" }), ...platform },
  getHost: platform,
  updateHost: { body: () => ({ tags: [] }), ...platform },
  createHostToken: platform,
  cordonHost: platform,
  uncordonHost: platform,
  drainHost: { body: () => ({}), ...platform },
  previewHostDeletion: platform,
  deleteHost: platform,

  signInMethods: open,
  signUp: { body: () => ({ email: "a@example.org", password: "correct horse", name: "A" }), ...open },
  confirmAddress: { body: () => ({ token: secret, password: "correct horse" }), ...open },
  login: { body: () => ({ email: "a@example.org", password: "correct horse" }), ...open },
  askPasswordReset: { body: () => ({ email: "a@example.org" }), ...open },
  resetPassword: { body: () => ({ token: secret, new_password: "correct horse" }), ...open },
  startGithub: open,
  finishGithub: open,
  exchangeCode: { body: () => ({ code: secret, verifier: "v".repeat(43) }), ...open },
  logout: self,
  getMe: self,
  updateMe: { body: () => ({ name: "A" }), ...self },
  deleteMe: { body: () => ({ confirmation: "not@example.org" }), ...self },
  switchTeam: { body: ({ teamId }) => ({ team_id: teamId }), ...team },
  changePassword: { body: () => ({ new_password: "correct horse" }), ...self },
  disconnectProvider: self,
  listSessions: self,
  revokeSession: { elsewhere: "session_not_found" },
  revokeOtherSessions: self,

  listTeams: self,
  createTeam: { body: () => ({ name: "A" }), ...self },
  getTeam: team,
  updateTeam: { body: () => ({ name: "A" }), ...team },
  deleteTeam: team,
  transferTeam: { body: ({ ids }) => ({ user_id: ids.user }), ...team },
  leaveTeam: team,
  listMembers: team,
  setMemberRole: { body: () => ({ role: "member" }), ...team },
  removeMember: team,
  listInvitations: team,
  invite: { body: () => ({ email: "b@example.org" }), ...team },
  revokeInvitation: team,
  acceptInvitation: { body: () => ({ token: secret }), ...self },

  adminListTeams: platform,
  adminSetQuota: { body: () => teamQuotaSchema.parse({}), ...platform },
  adminListUsers: platform,
  adminDeactivateUser: platform,
  adminActivateUser: platform,
  adminSetAdmin: { body: () => ({ is_admin: false }), ...platform },
};
