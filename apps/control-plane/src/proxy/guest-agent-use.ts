import type { IncomingMessage } from "node:http";

import type { AuditAction } from "@roost/contract";

import type { AuditQueue } from "../audit/audit-queue.ts";
import type { SandboxRow } from "../db/sandboxes.ts";
import type { ClientAddresses } from "../http/client-address.ts";
import { requestIdHeader, requestIdOf } from "../http/request-id.ts";
import type { RoutedBy } from "./forwarded-headers.ts";

/** A request to a guest agent that it has answered. */
export interface GuestAgentUse {
  readonly sandbox: SandboxRow;
  readonly request: IncomingMessage;
  readonly by: RoutedBy;
  readonly action: AuditAction;
  readonly status: number;
}

/** What changes something in a guest, as the native API's `isGuestUse` rules have it: commands and files alone, not what goes on in a command that runs. */
const actions: ReadonlyMap<string, AuditAction> = new Map([
  ["/process.Process/Start", "sandbox.command"],
  ["/process.Process/SendSignal", "sandbox.command"],
  ["/filesystem.Filesystem/MakeDir", "sandbox.file"],
  ["/filesystem.Filesystem/Move", "sandbox.file"],
  ["/filesystem.Filesystem/Remove", "sandbox.file"],
  ["/files", "sandbox.file"],
  ["/files/compose", "sandbox.file"],
]);

/** What a request to a guest agent does, where that is to be audited. */
export function guestAgentActionOf(method: string | undefined, target: string): AuditAction | undefined {
  return method === "GET" || method === "HEAD" || method === "OPTIONS" ? undefined : actions.get(target.split("?", 1)[0] ?? "");
}

/** Answers that say that nothing was attempted: also a wrong token, because anybody could fill a log with those */
const notAttempted: ReadonlySet<number> = new Set([400, 401, 404, 405, 413, 415, 429]);

/**
 * Notes who uses a guest through the data plane, as far as that is known: whoever has the sandbox's access token, or a URL signed with it. No key is sent
 * there, so the entry has where it came from, and no name.
 */
export function noteGuestAgentUse(queue: AuditQueue, addresses: ClientAddresses, use: GuestAgentUse): void {
  const { sandbox, request, by, action, status } = use;
  if (notAttempted.has(status)) return;
  const credential = by === "signature" ? "signed URL" : sandbox.is_secure ? "access token" : "none";
  const caller = {
    actor: { kind: "system", id: "data-plane", name: "data plane of the sandbox" },
    teamId: sandbox.team_id,
    role: null,
    scopes: new Set<never>(),
    isAdmin: false,
    requestId: requestIdOf(request.headers[requestIdHeader]),
    address: addresses.of(request),
  } as const;
  const outcome = status < 400 ? ({ status: "success", detail: { credential } } as const) : failureOf(status, credential);
  queue.add(caller, { action, resource: { kind: "sandbox", id: sandbox.id }, ...outcome });
}

function failureOf(status: number, credential: string) {
  return { status: "failure", detail: { credential, error: String(status) } } as const;
}
