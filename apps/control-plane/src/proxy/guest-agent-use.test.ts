import type { IncomingMessage } from "node:http";

import { auditRules } from "@roost/contract";
import { expect, test } from "vitest";

import type { AuditQueue } from "../audit/audit-queue.ts";
import type { SandboxRow } from "../db/sandboxes.ts";
import { ClientAddresses } from "../http/client-address.ts";
import { guestAgentActionOf, noteGuestAgentUse, type GuestAgentUse } from "./guest-agent-use.ts";

test("what changes something is told apart from what reads", () => {
  expect(guestAgentActionOf("POST", "/process.Process/Start")).toBe("sandbox.command");
  expect(guestAgentActionOf("POST", "/process.Process/SendSignal?x=1")).toBe("sandbox.command");
  expect(guestAgentActionOf("POST", "/files?path=/a&signature=b")).toBe("sandbox.file");
  expect(guestAgentActionOf("POST", "/filesystem.Filesystem/Remove")).toBe("sandbox.file");
  for (const path of ["/process.Process/List", "/process.Process/Connect", "/filesystem.Filesystem/Stat", "/health", "/files/../files"]) {
    expect(guestAgentActionOf("POST", path), path).toBeUndefined();
  }
  for (const method of ["GET", "HEAD", "OPTIONS"]) expect(guestAgentActionOf(method, "/files")).toBeUndefined();
  // the native API's, for comparison
  expect(auditRules.exec).toMatchObject({ action: "sandbox.command", isGuestUse: true });
  expect(auditRules.writeFile).toMatchObject({ action: "sandbox.file", isGuestUse: true });
});

test("an entry has with which credential, never the credential; what was not attempted leaves none", () => {
  const added: unknown[] = [];
  const queue = { add: (...entry: unknown[]) => void added.push(entry) } as unknown as AuditQueue;
  const request = {
    headers: { "x-request-id": "r1", "x-access-token": "s3cret" },
    url: "/files?path=/s3cret&signature=s3cret",
    socket: { remoteAddress: "::ffff:192.0.2.7" },
  } as unknown as IncomingMessage;
  const sandbox = { id: "i1", team_id: "gteam", is_secure: true } as SandboxRow;
  const note = (more: Partial<GuestAgentUse>) =>
    noteGuestAgentUse(queue, new ClientAddresses([]), { sandbox, request, by: "host", action: "sandbox.file", status: 200, ...more });
  for (const status of [400, 401, 404, 413, 429]) note({ status });
  expect(added).toEqual([]);
  note({});
  note({ by: "signature" });
  note({ sandbox: { ...sandbox, is_secure: false }, status: 507 });
  expect(added).toMatchObject([
    [
      { teamId: "gteam", requestId: "r1", address: "192.0.2.7", actor: { kind: "system", id: "data-plane" } },
      { action: "sandbox.file", resource: { kind: "sandbox", id: "i1" }, status: "success", detail: { credential: "access token" } },
    ],
    [{}, { detail: { credential: "signed URL" } }],
    [{}, { status: "failure", detail: { credential: "none", error: "507" } }],
  ]);
  expect(JSON.stringify(added)).not.toContain("s3cret");
});
