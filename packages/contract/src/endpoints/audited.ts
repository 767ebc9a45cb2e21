import type { AuditAction } from "../audit.ts";
import type { EndpointId, endpoints } from "./table.ts";

/** What a request to an endpoint leaves in the audit log. */
export interface AuditRule {
  readonly action: AuditAction;
  /** Kind of what it is done to */
  readonly kind: string;
  /** Where its id is: a parameter of the path, or a field of the answer. Absent: it is the caller, or not known before the act */
  readonly param?: string;
  readonly field?: string;
  /** About what happens in a guest: only where the operator wants it */
  readonly isGuestUse?: true;
}

/** Why a request to an endpoint leaves nothing. */
export interface NotAudited {
  readonly why: string;
}

const ofSandbox = (action: AuditAction) => ({ action, kind: "sandbox", param: "id" }) as const;
const inGuest = (action: AuditAction) => ({ ...ofSandbox(action), isGuestUse: true }) as const;
const ofTeam = (action: AuditAction) => ({ action, kind: "team", param: "team" }) as const;
const ofSelf = (action: AuditAction) => ({ action, kind: "user" }) as const;
const ofUser = (action: AuditAction) => ({ action, kind: "user", param: "user" }) as const;
const ofChannel = (action: AuditAction) => ({ action, kind: "channel", param: "channel" }) as const;
const ofHost = (action: AuditAction) => ({ action, kind: "host", param: "host" }) as const;
const readsOnly = { why: "it changes nothing; its method is POST because of its body" } as const;

/** Every endpoint that changes something; and terminals, commands and tunnels, which are GET because they are upgrades, and change what they like. */
export type AuditedEndpointId =
  | { [Id in EndpointId]: (typeof endpoints)[Id]["method"] extends "GET" ? never : Id }[EndpointId]
  | "execStream"
  | "openTunnel"
  | "pty";

/**
 * An endpoint that changes something and is missing here does not compile. Where the act is a transaction of ours its entry is written in it; else, and for what fails, after the answer.
 */
export const auditRules: Readonly<Record<AuditedEndpointId, AuditRule | NotAudited>> = {
  createSandbox: { action: "sandbox.create", kind: "sandbox", field: "id" },
  deleteSandbox: ofSandbox("sandbox.delete"),
  pauseSandbox: ofSandbox("sandbox.pause"),
  resumeSandbox: ofSandbox("sandbox.resume"),
  checkpointSandbox: ofSandbox("sandbox.checkpoint"),
  rollbackSandbox: ofSandbox("sandbox.rollback"),
  forkSandbox: ofSandbox("sandbox.fork"),
  setSandboxTimeout: ofSandbox("sandbox.update"),
  setNetwork: ofSandbox("sandbox.update"),
  setPorts: ofSandbox("sandbox.update"),
  setPort: ofSandbox("sandbox.update"),
  signPort: ofSandbox("sandbox.update"),
  getTrafficToken: ofSandbox("sandbox.update"),
  rotateTrafficToken: ofSandbox("sandbox.update"),
  pingSandbox: { why: "clients send it every few seconds, and it changes nothing that anybody is asked about" },
  exec: inGuest("sandbox.command"),
  execStream: inGuest("sandbox.command"),
  pty: inGuest("sandbox.command"),
  openTunnel: inGuest("sandbox.tunnel"),
  signalProcess: inGuest("sandbox.command"),
  writeFile: inGuest("sandbox.file"),
  makeFolder: inGuest("sandbox.file"),
  moveFile: inGuest("sandbox.file"),
  removeFile: inGuest("sandbox.file"),
  listFiles: readsOnly,
  statFile: readsOnly,
  createSnapshot: { action: "snapshot.create", kind: "snapshot", field: "name" },
  deleteSnapshot: { action: "snapshot.delete", kind: "snapshot", param: "name" },
  updateTemplate: { action: "template.update", kind: "template", param: "name" },
  deleteTemplate: { action: "template.delete", kind: "template", param: "name" },
  setTemplateTag: { action: "template.update", kind: "template", param: "name" },
  removeTemplateTag: { action: "template.update", kind: "template", param: "name" },
  putTemplateFiles: { why: "files of a build that is yet to be asked for; the build is audited" },
  createBuild: { action: "build.create", kind: "build", field: "id" },
  createChannel: { action: "channel.create", kind: "channel", field: "id" },
  updateChannel: ofChannel("channel.update"),
  deleteChannel: ofChannel("channel.delete"),
  testChannel: ofChannel("channel.test"),
  rotateChannelSecret: ofChannel("channel.rotate"),
  retryDelivery: { why: "it sends what was to be sent anyway" },
  cancelBuild: { action: "build.cancel", kind: "build", param: "build" },
  createApiKey: { action: "key.create", kind: "api_key", field: "id" },
  deleteApiKey: { action: "key.revoke", kind: "api_key", param: "key" },
  signUp: ofSelf("user.sign_up"),
  confirmAddress: ofSelf("user.verify"),
  login: ofSelf("user.login"),
  exchangeCode: ofSelf("user.login"),
  logout: ofSelf("user.logout"),
  askPasswordReset: ofSelf("user.password_reset_ask"),
  resetPassword: ofSelf("user.password_reset"),
  updateMe: ofSelf("user.update"),
  deleteMe: ofSelf("user.delete"),
  switchTeam: { why: "it chooses the team of the session that asks; what is done for a team is in that team's log" },
  changePassword: ofSelf("user.password_change"),
  disconnectProvider: ofSelf("user.provider_disconnect"),
  revokeSession: { action: "session.revoke", kind: "session", param: "session" },
  revokeOtherSessions: { action: "session.revoke", kind: "session" },
  createTeam: { action: "team.create", kind: "team", field: "id" },
  updateTeam: ofTeam("team.update"),
  deleteTeam: ofTeam("team.delete"),
  transferTeam: ofTeam("team.transfer"),
  leaveTeam: { action: "member.remove", kind: "user" },
  setMemberRole: ofUser("member.role"),
  removeMember: ofUser("member.remove"),
  invite: { action: "member.invite", kind: "invitation", field: "id" },
  revokeInvitation: { action: "member.invitation_revoke", kind: "invitation", param: "invitation" },
  acceptInvitation: { action: "member.join", kind: "user" },
  createHost: { action: "host.create", kind: "host", field: "id" },
  updateHost: ofHost("host.update"),
  createHostToken: ofHost("host.update"),
  cordonHost: ofHost("host.cordon"),
  uncordonHost: ofHost("host.uncordon"),
  drainHost: ofHost("host.drain"),
  deleteHost: ofHost("host.delete"),
  adminSetQuota: ofTeam("team.quota"),
  adminDeactivateUser: ofUser("user.disable"),
  adminActivateUser: ofUser("user.enable"),
  adminSetAdmin: ofUser("user.admin_grant"),
};

/** What a request to an endpoint leaves; undefined: it only reads. */
export function auditRuleOf(id: EndpointId): AuditRule | NotAudited | undefined {
  return (auditRules as Partial<Record<EndpointId, AuditRule | NotAudited>>)[id];
}
