import { z } from "zod";

import { pageSizeDefault, pageSizeMax } from "./limits.ts";

/** What the audit log speaks of, as `<kind of resource>.<what was done>`. A closed list: programs decide by it. */
export const auditActions = [
  "sandbox.create",
  "sandbox.delete",
  "sandbox.pause",
  "sandbox.resume",
  "sandbox.checkpoint",
  "sandbox.rollback",
  "sandbox.fork",
  "sandbox.update",
  /** A command, a signal, input, a terminal: without content, only where the operator wants it */
  "sandbox.command",
  /** Files of the guest written, moved or removed: without names, only where the operator wants it */
  "sandbox.file",
  /** A connection to a port of the guest: only where the operator wants it */
  "sandbox.tunnel",
  "snapshot.create",
  "snapshot.delete",
  "template.update",
  "template.delete",
  "build.create",
  "build.cancel",
  "key.create",
  "key.update",
  "key.revoke",
  /** Somebody used a key that does not work any more */
  "key.refused",
  "user.sign_up",
  "user.verify",
  "user.login",
  "user.login_failed",
  "user.logout",
  "user.update",
  "user.password_reset_ask",
  "user.password_reset",
  "user.password_change",
  "user.provider_connect",
  "user.provider_disconnect",
  "user.disable",
  "user.enable",
  "user.admin_grant",
  "user.admin_revoke",
  "user.delete",
  "session.revoke",
  "team.create",
  "team.update",
  "team.delete",
  "team.transfer",
  "team.quota",
  "member.invite",
  "member.invitation_revoke",
  "member.join",
  "member.role",
  "member.remove",
  "channel.create",
  "channel.update",
  "channel.delete",
  "channel.rotate",
  "channel.test",
  "host.create",
  "host.register",
  "host.update",
  "host.cordon",
  "host.uncordon",
  "host.drain",
  "host.delete",
  "operation.cancel",
  /** Old entries were removed as the retention says; `detail` has the last one's number and hash */
  "audit.prune",
] as const;
export type AuditAction = (typeof auditActions)[number];

/** `team`: every member of it may see it; `admin`: those who manage the team, or the platform's admins. */
export const auditScopes = ["team", "admin"] as const;
export type AuditScope = (typeof auditScopes)[number];

export const auditEntrySchema = z
  .object({
    number: z.int().describe("Counts the team's entries, from 1, without gaps"),
    time: z.iso.datetime(),
    actor: z.object({ kind: z.enum(["api_key", "user", "host", "system"]), id: z.string(), name: z.string() }),
    action: z.enum(auditActions),
    resource: z.object({ kind: z.string(), id: z.string().nullable() }),
    scope: z.enum(auditScopes),
    status: z.enum(["success", "failure"]),
    request_id: z.string(),
    address: z.string().nullable().describe("Where the request came from"),
    detail: z.record(z.string(), z.string()),
    previous_hash: z.string().describe("`hash` of the entry before"),
    hash: z.string().describe("SHA-256 over the entry with `previous_hash`, hex"),
  })
  .meta({ id: "AuditEntry" });
export type AuditEntryView = z.infer<typeof auditEntrySchema>;

/** Whose log: the caller's team's, or the platform's own (its admins). */
export const auditLogs = ["team", "platform"] as const;
export type AuditLogName = (typeof auditLogs)[number];

const wordSchema = z.string().min(1).max(128);

export const listAuditQuerySchema = z.strictObject({
  log: z.enum(auditLogs).default("team").describe("`platform`: what its admins did; only for them"),
  actor: wordSchema.optional().describe("Id of who did it"),
  action: z.enum(auditActions).optional(),
  resource_kind: wordSchema.optional(),
  resource_id: wordSchema.optional(),
  status: z.enum(["success", "failure"]).optional(),
  from: z.iso.datetime().optional().describe("Not older than this"),
  to: z.iso.datetime().optional().describe("Older than this"),
  limit: z.coerce.number().int().min(1).max(pageSizeMax).default(pageSizeDefault),
  cursor: z.string().max(256).optional().describe("`next_cursor` of the page before"),
});
export type ListAuditQuery = z.output<typeof listAuditQuerySchema>;

export const auditListSchema = z
  .object({
    entries: z.array(auditEntrySchema).describe("Newest first"),
    next_cursor: z.string().nullable().describe("null on the last page"),
  })
  .meta({ id: "AuditList" });
export type AuditList = z.infer<typeof auditListSchema>;

/** Entries that one look at the chain covers: some seconds of hashing */
export const auditVerifyEntriesMax = 50_000;

export const verifyAuditQuerySchema = z.strictObject({
  log: z.enum(auditLogs).default("team"),
  after: z.coerce.number().int().min(0).default(0).describe("`checked_to` of the answer before"),
  after_hash: z
    .string()
    .regex(/^[0-9a-f]{64}$/, "64 hex digits")
    .optional()
    .describe("Hash that entry `after` must have, from the answer before or from the control plane's log"),
});
export type VerifyAuditQuery = z.output<typeof verifyAuditQuerySchema>;

export const auditVerificationSchema = z
  .object({
    is_intact: z.boolean().describe("Of what was looked at"),
    is_complete: z.boolean().describe("Whether the newest entry was looked at; false: ask again with `after`"),
    kept_from: z.int().describe("Number of the oldest entry that is kept"),
    checked_to: z.int().describe("Number of the last entry that was looked at"),
    checked_to_hash: z.string(),
    checked: z.int().describe("How many were looked at"),
    broken_at: z.int().nullable().describe("Number of the first entry that is not what was written; null: none"),
    problem: z.string().nullable().describe("What is wrong with it"),
  })
  .meta({ id: "AuditVerification" });
export type AuditVerification = z.infer<typeof auditVerificationSchema>;
