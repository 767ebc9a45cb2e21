import {
  auditListSchema,
  auditRuleOf,
  auditRules,
  auditVerificationSchema,
  endpoints,
  type AuditEntryView,
  type Endpoint,
  type EndpointId,
} from "@roost/contract";
import { poll } from "@roost/kit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { e2bAuditRules } from "../e2b/audit-rules.ts";
import { e2bRoutes, type E2bRoute } from "../e2b/route-table.ts";
import { World } from "../testing/world.ts";

let world: World;
/** A key that may next to nothing */
let limited: string;
beforeAll(async () => {
  world = await World.start({ options: { auditCommands: true } });
  const made = await world.request("POST", "/v1/keys", { name: "limited", scopes: ["audit:read"] });
  limited = ((await made.json()) as { key: string }).key;
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

const all = Object.entries(endpoints) as [EndpointId, Endpoint][];
const isChanging = (endpoint: Endpoint) => endpoint.method !== "GET";
/** They are upgrades, and so GET */
const guestSockets: ReadonlySet<EndpointId> = new Set(["execStream", "openTunnel", "pty"]);
let requests = 0;

async function entriesOf(requestId: string, log = "team"): Promise<AuditEntryView[]> {
  const answer = await world.request("GET", `/v1/audit?limit=1000&log=${log}`);
  return auditListSchema.parse(await answer.json()).entries.filter((entry) => entry.request_id === requestId);
}

async function act(method: string, path: string, body?: unknown, headers: Record<string, string> = {}) {
  requests += 1;
  const requestId = `audit-test-${requests}`;
  const answer = await world.request(method, path, body, { "x-request-id": requestId, ...headers });
  const text = await answer.text();
  return { requestId, status: answer.status, body: text === "" ? undefined : (JSON.parse(text) as Record<string, unknown>) };
}

const concrete = (path: string) =>
  path
    .replace(/\{(build|operation|delivery)\}/g, "00000000-0000-4000-8000-000000000000")
    .replace("{hash}", "0".repeat(64))
    .replace(/\{\w+\}/g, "unknown");

test("every endpoint that changes something has a rule, or a reason for having none; no rule is of another", () => {
  const wanted = all.filter(([id, endpoint]) => isChanging(endpoint) || guestSockets.has(id)).map(([id]) => id);
  expect(Object.keys(auditRules).sort()).toEqual(wanted.sort());
  const e2b = Object.entries(e2bRoutes) as [string, E2bRoute][];
  const wantedOfE2b = e2b.filter(([, route]) => route.method !== "GET" && route.refused === undefined).map(([id]) => id);
  expect(Object.keys(e2bAuditRules).sort()).toEqual(wantedOfE2b.sort());
});

test("rules name parameters that the path has", () => {
  for (const [id, endpoint] of all) {
    const rule = auditRuleOf(id);
    if (rule !== undefined && "param" in rule && rule.field === undefined) expect(endpoint.path, id).toContain(`{${rule.param}}`);
  }
});

/** Without a caller nothing can be told here; who serves them records what is to be recorded. */
const refusable = all.filter(([id, { access }]) => {
  const rule = auditRuleOf(id);
  return rule !== undefined && !("why" in rule) && access !== "open" && access !== "caller" && access !== "audit:read";
});

describe.each(refusable.filter(([, endpoint]) => endpoint.webSocket === undefined))("%s", (id, endpoint) => {
  test("leaves exactly one entry of a caller who may not", async () => {
    const { requestId, status, body } = await act(endpoint.method, concrete(endpoint.path), undefined, { "x-api-key": limited });
    expect(status, JSON.stringify(body)).toBe(403);
    const rule = auditRuleOf(id);
    const entries = [...(await entriesOf(requestId)), ...(await entriesOf(requestId, "platform"))];
    expect(entries).toMatchObject([
      { action: rule !== undefined && "action" in rule ? rule.action : "", status: "failure", actor: { name: "limited" } },
    ]);
    expect(["scope_missing", "session_required", "admin_only"]).toContain(entries[0]?.detail["error"]);
    expect(entries[0]?.address).toBe("127.0.0.1");
  });
});

test("what was done leaves exactly one entry each, with what it was done to", async () => {
  const created = await act("POST", "/v1/sandboxes", { metadata: { token: "hidden" } });
  const id = String(created.body?.["id"]);
  const acts = [
    [created, "sandbox.create", id],
    [await act("POST", `/v1/sandboxes/${id}/timeout`, { timeout_sec: 60 }), "sandbox.update", id],
    [await act("POST", `/v1/sandboxes/${id}/exec`, { cmd: "echo", args: ["s3cret"] }), "sandbox.command", id],
    [await act("POST", `/v1/sandboxes/${id}/pause`), "sandbox.pause", id],
    [await act("POST", `/v1/sandboxes/${id}/resume`), "sandbox.resume", id],
    [await act("DELETE", `/v1/sandboxes/${id}`), "sandbox.delete", id],
  ] as const;
  for (const [{ requestId, status, body }, action, of] of acts) {
    expect(status, `${action}: ${JSON.stringify(body)}`).toBeLessThan(300);
    expect(await entriesOf(requestId), action).toMatchObject([
      { action, status: "success", resource: { kind: "sandbox", id: of }, detail: {} },
    ]);
  }
  const key = await act("POST", "/v1/keys", { name: "one more" });
  expect(await entriesOf(key.requestId)).toMatchObject([{ action: "key.create", resource: { id: key.body?.["id"] } }]);
  const revoked = await act("DELETE", `/v1/keys/${String(key.body?.["id"])}`);
  expect(await entriesOf(revoked.requestId)).toMatchObject([{ action: "key.revoke", status: "success" }]);
});

test("through E2B's routes it is the same", async () => {
  const created = await act("POST", "/sandboxes", { templateID: "base" });
  expect(created.status).toBe(201);
  const id = String(created.body?.["sandboxID"]);
  expect(await entriesOf(created.requestId)).toMatchObject([{ action: "sandbox.create", resource: { kind: "sandbox", id } }]);
  const killed = await act("DELETE", `/sandboxes/${id}`);
  expect(await entriesOf(killed.requestId)).toMatchObject([{ action: "sandbox.delete", resource: { id } }]);
});

test("a terminal that is opened leaves an entry, what is typed in it does not", async () => {
  const { id } = await world.createSandbox();
  const socket = await world.socket(`/v1/sandboxes/${id}/exec/stream`, { headers: { "x-request-id": "audit-test-socket" } }).open();
  socket.send({ type: "start", cmd: "echo", args: ["s3cret"] });
  await socket.until("exit");
  const [entry] = await poll({ what: "the entry", timeoutMs: 10_000 }, async () => {
    const found = await entriesOf("audit-test-socket");
    return found.length === 0 ? undefined : found;
  });
  expect(entry).toMatchObject({ action: "sandbox.command", resource: { id }, status: "success" });
});

test("what E2B's SDK does in a guest leaves entries as the native API's does: of whom is not known, but of which sandbox, from where and by what", async () => {
  const { id } = await world.createSandbox();
  const guest = async (path: string, body: string | undefined, headers: Record<string, string> = {}, method = "POST") => {
    requests += 1;
    const requestId = `audit-test-${requests}`;
    const ofSandbox = { "e2b-sandbox-id": id, "e2b-sandbox-port": "49983", "x-request-id": requestId };
    const init = {
      method,
      headers: { ...ofSandbox, "content-type": "application/json", ...headers },
      ...(body === undefined ? {} : { body }),
    };
    const answer = await fetch(world.url + path, init);
    await answer.text();
    return { status: answer.status, requestId };
  };
  const made = await guest("/filesystem.Filesystem/MakeDir", JSON.stringify({ path: "/tmp/s3cret" }));
  expect(made.status).toBe(200);
  const listed = await guest("/filesystem.Filesystem/ListDir", JSON.stringify({ path: "/tmp" }));
  const unknown = await guest("/filesystem.Filesystem/Nothing", "{}");
  const entries = await poll({ what: "the entry", timeoutMs: 10_000 }, async () => {
    const found = await entriesOf(made.requestId);
    return found.length === 0 ? undefined : found;
  });
  expect(entries).toMatchObject([
    {
      action: "sandbox.file",
      resource: { kind: "sandbox", id },
      status: "success",
      actor: { kind: "system", id: "data-plane" },
      address: "127.0.0.1",
    },
  ]);
  for (const { requestId } of [listed, unknown]) expect(await entriesOf(requestId)).toEqual([]);
});

test("reading, and what is no request of the API, leaves nothing; there is no secret in the whole log, and it is intact", async () => {
  for (const [method, path, body] of [
    ["GET", "/v1/sandboxes", undefined],
    ["POST", "/v1/sandboxes", { bogus: 1 }],
    ["POST", "/v1/sandboxes", "{"],
    ["DELETE", "/v1/sandboxes/NO-ID", undefined],
  ] as const) {
    const { requestId } = await act(method, path, body, typeof body === "string" ? { "content-type": "application/json" } : {});
    expect(await entriesOf(requestId), `${method} ${path}`).toEqual([]);
  }
  const everything = await (await world.request("GET", "/v1/audit?limit=1000")).text();
  for (const secret of ["s3cret", "hidden", world.key, limited]) expect(everything).not.toContain(secret);
  for (const log of ["team", "platform"]) {
    const verified = auditVerificationSchema.parse(await (await world.request("GET", `/v1/audit/verify?log=${log}`)).json());
    expect(verified).toMatchObject({ is_intact: true, is_complete: true });
  }
});

test("the log can be asked for a page, a kind and a time; what cannot be one is refused", async () => {
  const page = auditListSchema.parse(await (await world.request("GET", "/v1/audit?limit=2&status=failure")).json());
  expect(page.entries).toHaveLength(2);
  expect(page.next_cursor).not.toBeNull();
  for (const query of ["action=nonsense", "from=yesterday", "cursor=%21", "limit=0", "log=other"]) {
    expect((await world.request("GET", `/v1/audit?${query}`)).status, query).toBe(400);
  }
});
