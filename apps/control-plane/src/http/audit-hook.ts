import { auditRuleOf as ruleOfEndpoint, type AuditRule, type EndpointId } from "@roost/contract";
import type { FastifyInstance, FastifyRequest } from "fastify";

import type { Caller } from "../accounts/caller.ts";
import type { AuditEntry } from "../audit/audit.ts";
import { e2bAuditRules } from "../e2b/audit-rules.ts";
import type { Bookkeeping } from "../usage/bookkeeping.ts";
import { toPlatformError } from "./errors.ts";

/** Nothing was attempted: what came was no request of the API, or there were too many. Writing these down would let anybody fill the log. */
const notAttempted: ReadonlySet<number> = new Set([400, 413, 415, 429]);

export interface AuditHookOptions {
  readonly bookkeeping: Bookkeeping;
  /** Whether commands and files of guests are audited, too */
  readonly auditCommands: boolean;
}

/** What a request to a route leaves in the audit log; undefined: nothing. */
export function auditRuleOf(operationId: string | undefined, auditCommands: boolean): AuditRule | undefined {
  if (operationId === undefined) return undefined;
  const rule = operationId.startsWith("e2b.") ? e2bAuditRules[operationId.slice("e2b.".length)] : ruleOfEndpoint(operationId as EndpointId);
  if (rule === undefined || "why" in rule || (rule.isGuestUse === true && !auditCommands)) return undefined;
  return rule;
}

/**
 * One entry for each request that changes something, in the words of `auditRules`. Where a service has recorded its act already, in its transaction,
 * only a failure is added. Of requests without a caller (a login, a wrong key) nothing is known here: whoever serves them records them.
 */
export function addAuditHook(app: FastifyInstance, { bookkeeping, auditCommands }: AuditHookOptions): void {
  const { audit, auditQueue } = bookkeeping;
  const ids = new WeakMap<FastifyRequest, string>();
  const codes = new WeakMap<FastifyRequest, string>();
  const ruleOf = (request: FastifyRequest) => auditRuleOf(request.routeOptions.config.operationId, auditCommands);

  app.addHook("preSerialization", async (request, _reply, payload) => {
    const field = ruleOf(request)?.field;
    const id = field === undefined ? undefined : (payload as Record<string, unknown> | null)?.[field];
    if (typeof id === "string") ids.set(request, id);
    return payload;
  });

  app.addHook("onError", async (request, _reply, error) => {
    codes.set(request, toPlatformError(error).code);
  });

  // Not after the answer was written: a caller that is gone by then did what it did nevertheless
  app.addHook("onSend", async (request, reply, payload) => {
    const { caller } = request;
    const rule = ruleOf(request);
    if (rule === undefined || caller === undefined || notAttempted.has(reply.statusCode)) return payload;
    const status = reply.statusCode < 400 ? "success" : "failure";
    const recorded = audit.recordedOf(caller);
    if (recorded === status || recorded === "failure") return payload;
    const code = codes.get(request);
    const detail = status === "success" ? {} : { error: code ?? String(reply.statusCode) };
    const params = request.params as Readonly<Record<string, string>> | undefined;
    auditQueue.add(caller, entryOf(rule, caller, ids.get(request) ?? params?.[rule.param ?? ""], { status, detail }));
    return payload;
  });
}

/** An entry by a rule. `id`: of what it was done to, where it is known. */
export function entryOf(
  rule: AuditRule,
  caller: Caller,
  id: string | undefined,
  outcome: Pick<AuditEntry, "status" | "detail">,
): AuditEntry {
  const isOfSelf = rule.param === undefined && rule.field === undefined;
  return { action: rule.action, resource: { kind: rule.kind, id: id ?? (isOfSelf ? caller.actor.id : null) }, ...outcome };
}
