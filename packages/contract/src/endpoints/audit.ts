import { auditListSchema, auditVerificationSchema, listAuditQuerySchema, verifyAuditQuerySchema } from "../audit.ts";
import type { Endpoint } from "./endpoint.ts";

export const auditEndpoints = {
  listAudit: {
    method: "GET",
    path: "/v1/audit",
    access: "audit:read",
    summary: "Who did what, newest first",
    query: listAuditQuerySchema,
    answers: { 200: auditListSchema },
    errors: ["admin_only"],
  },
  verifyAudit: {
    method: "GET",
    path: "/v1/audit/verify",
    access: "audit:read",
    summary: "Whether the audit log is what was written: each entry has the hash of the one before",
    query: verifyAuditQuerySchema,
    answers: { 200: auditVerificationSchema },
    errors: ["admin_only"],
  },
} as const satisfies Record<string, Endpoint>;
