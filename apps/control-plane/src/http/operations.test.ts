import {
  errorBodySchema,
  errorCatalogue,
  operations,
  sandboxListSchema,
  sandboxSchema,
  type Operation,
  type OperationId,
} from "@roost/contract";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { World } from "../testing/world.ts";

/** Questions asked of every operation of the table. */

let world: World;
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

const all = Object.entries(operations) as [OperationId, Operation][];
const unknownId = "idoesnotexist";
const unknownBuildId = "00000000-0000-4000-8000-000000000000";

function pathOf(operation: Operation, id: string): string {
  return operation.path
    .replace("{id}", id)
    .replace("{selector}", "sometag")
    .replace("{name}", "somename")
    .replace("{build}", unknownBuildId)
    .replace("{hash}", "0".repeat(64))
    .replace("{tag}", "sometag");
}

/** What the operation needs besides the sandbox's id, so that nothing but the id is wrong. */
const valid: Partial<Record<OperationId, { readonly query?: string; readonly body?: unknown }>> = {
  setSandboxTimeout: { body: { timeout_sec: 5 } },
  rollbackSandbox: { body: { generation: 1 } },
  forkSandbox: { body: { count: 1 } },
  createSnapshot: { body: { sandbox_id: unknownId, name: "n" } },
  exec: { body: { cmd: "true" } },
  readFile: { query: "?path=/x" },
  writeFile: { query: "?path=/x", body: "data" },
  listFiles: { body: { path: "/" } },
  statFile: { body: { path: "/" } },
  makeFolder: { body: { path: "/y" } },
  moveFile: { body: { source: "/a", destination: "/b" } },
  removeFile: { body: { path: "/z" } },
  watchFiles: { query: "?path=/" },
  findTemplateFiles: { query: "?name=somename" },
  putTemplateFiles: { query: "?name=somename", body: "data" },
  createBuild: { body: { name: "n", recipe: { from: { template: "base" } } } },
};

interface Answer {
  readonly status: number;
  readonly body: string;
}

async function ask(id: OperationId, operation: Operation, path: string, headers: Record<string, string>, body?: unknown): Promise<Answer> {
  if (operation.webSocket !== undefined) {
    const socket = world.socket(path, { headers });
    const end = await socket.ended;
    return { status: end.status ?? 0, body: end.body ?? "" };
  }
  const answer = await world.request(operation.method, path, body, headers);
  return { status: answer.status, body: await answer.text() };
}

function codeOf(answer: Answer): string {
  const { error } = errorBodySchema.parse(JSON.parse(answer.body));
  expect(errorCatalogue[error.code].status, "the status is the catalogue's").toBe(answer.status);
  return error.code;
}

const queryOf = (id: OperationId) => valid[id]?.query ?? "";
const bodyOf = (id: OperationId) => valid[id]?.body;
const only = (wanted: (operation: Operation) => boolean) => all.filter(([, operation]) => wanted(operation));

describe.each(all)("%s", (id, operation) => {
  test("refuses a caller without a key, with a wrong one, and with one in the URL", async () => {
    const path = pathOf(operation, unknownId) + queryOf(id);
    for (const headers of [
      { "x-api-key": "" },
      { "x-api-key": `roost_${"0".repeat(40)}` },
      { "x-api-key": "", authorization: "Bearer nonsense" },
    ]) {
      expect(codeOf(await ask(id, operation, path, headers, bodyOf(id)))).toBe("api_key_invalid");
    }
    const inUrl = `${path}${path.includes("?") ? "&" : "?"}api_key=${world.key}`;
    expect(codeOf(await ask(id, operation, inUrl, { "x-api-key": "" }, bodyOf(id)))).toBe("api_key_invalid");
  });

  test("refuses a query parameter there is not", async () => {
    const path = `${pathOf(operation, unknownId)}${queryOf(id) === "" ? "?" : `${queryOf(id)}&`}bogus=1`;
    const answer = await ask(id, operation, path, {}, bodyOf(id));
    expect(codeOf(answer)).toBe("request_invalid");
    expect(answer.body).toContain("bogus");
  });
});

describe.each(only((operation) => operation.path.includes("{id}")))("%s of a sandbox", (id, operation) => {
  test("says that an unknown one is unknown", async () => {
    const path = pathOf(operation, unknownId) + queryOf(id);
    expect(codeOf(await ask(id, operation, path, {}, bodyOf(id)))).toBe("sandbox_not_found");
  });

  test("refuses what can be no id", async () => {
    for (const bad of ["UPPER", "with-dash", "x".repeat(41), "%00", "i%2f..%2f..", "%F0%9F%90%94"]) {
      const answer = await ask(id, operation, pathOf(operation, bad) + queryOf(id), {}, bodyOf(id));
      expect(codeOf(answer)).toBe("request_invalid");
      expect(answer.body).toContain("1 to 40 lower-case letters and digits");
    }
  });
});

describe.each(only((operation) => operation.path.includes("{build}")))("%s of a build", (id, operation) => {
  test("says that an unknown one is unknown", async () => {
    expect(codeOf(await ask(id, operation, pathOf(operation, unknownId), {}, bodyOf(id)))).toBe("build_not_found");
  });

  test("refuses what can be no id", async () => {
    for (const bad of ["1", "UPPER", "%00", `${unknownBuildId}0`, "..%2f.."]) {
      const path = operation.path.replace("{build}", bad);
      expect(codeOf(await ask(id, operation, path, {}, bodyOf(id)))).toBe("request_invalid");
    }
  });
});

const hostileBodies = [
  "{",
  "[]",
  "null",
  '"text"',
  "1",
  '{"bogus":1}',
  '{"__proto__":{"x":1}}',
  '{"constructor":{"prototype":{}}}',
  "\0",
  '{"a":1}}',
];

describe.each(only((operation) => operation.body !== undefined && operation.body !== "stream"))("%s with a body", (id, operation) => {
  test.each(hostileBodies)("refuses %j", async (body) => {
    const answer = await ask(id, operation, pathOf(operation, unknownId) + queryOf(id), { "content-type": "application/json" }, body);
    expect(codeOf(answer)).toBe("request_invalid");
  });

  test("refuses other types and more than it takes", async () => {
    const path = pathOf(operation, unknownId) + queryOf(id);
    expect(codeOf(await ask(id, operation, path, { "content-type": "text/plain" }, "{}"))).toBe("media_type_unsupported");
    const large = `{"a":"${"x".repeat(1024 * 1024)}"}`;
    expect(codeOf(await ask(id, operation, path, { "content-type": "application/json" }, large))).toBe("request_too_large");
  });
});

describe.each(only((operation) => operation.webSocket === undefined))("%s over plain HTTP", (id, operation) => {
  test("carries the request's id", async () => {
    const path = pathOf(operation, unknownId) + queryOf(id);
    const answer = await world.request(operation.method, path, bodyOf(id), { "x-request-id": "my-own.id_1" });
    expect(answer.headers.get("x-request-id")).toBe("my-own.id_1");
    await answer.text();
    const other = await world.request(operation.method, path, bodyOf(id), { "x-request-id": "no good\tid" });
    expect(other.headers.get("x-request-id")).toMatch(/^req_[0-9a-f]{16}$/);
    await other.text();
  });
});

test("a sandbox through its life, each answer of the promised form", async () => {
  const created = await world.request("POST", "/v1/sandboxes", { metadata: { purpose: "life" }, timeout_sec: 77 });
  expect(created.status).toBe(201);
  const sandbox = sandboxSchema.parse(await created.json());
  expect(sandbox).toMatchObject({ state: "running", template: "base", vcpus: 1, memory_mb: 512, timeout_sec: 77, stopped_at: null });
  const path = `/v1/sandboxes/${sandbox.id}`;
  expect(sandboxSchema.parse(await (await world.request("GET", path)).json()).id).toBe(sandbox.id);
  const listed = sandboxListSchema.parse(await (await world.request("GET", "/v1/sandboxes?metadata=purpose%3Dlife&state=running")).json());
  expect(listed.sandboxes.map((entry) => entry.id)).toEqual([sandbox.id]);
  expect((await world.request("POST", `${path}/ping`)).status).toBe(204);
  expect(await (await world.request("POST", `${path}/timeout`, { timeout_sec: 0 })).json()).toMatchObject({ timeout_sec: 0 });
  expect(await (await world.request("GET", `${path}/metrics?range=1h`)).json()).toMatchObject({ range: "1h" });
  const logs = await world.request("GET", `${path}/logs`);
  expect(await logs.text()).toContain("Linux version");
  expect(logs.headers.get("content-type")).toBe("text/plain; charset=utf-8");
  expect((await world.request("DELETE", path)).status).toBe(204);
  expect(await (await world.request("GET", path)).json()).toMatchObject({ state: "stopped", stop_reason: "deleted" });
  const use = await world.request("POST", `${path}/exec`, { cmd: "true" });
  expect(use.status).toBe(409);
  expect(JSON.stringify(await use.json())).not.toContain("access_token");
});

test("an empty create takes the defaults, with and without a body", async () => {
  for (const [body, headers] of [
    [undefined, {}],
    ["", { "content-type": "application/json" }],
    ["{}", { "content-type": "application/json; charset=utf-8" }],
  ] as const) {
    const answer = await world.request("POST", "/v1/sandboxes", body, headers);
    expect(answer.status, JSON.stringify(body)).toBe(201);
    await answer.json();
  }
});

test("pages of the list are followed by their cursor", async () => {
  for (let index = 0; index < 5; index += 1) await world.createSandbox({ metadata: { page: "yes" } });
  const seen: string[] = [];
  let cursor: string | null = "";
  while (cursor !== null) {
    const next: string = cursor === "" ? "" : `&cursor=${cursor}`;
    const page = sandboxListSchema.parse(await (await world.request("GET", `/v1/sandboxes?metadata=page%3Dyes&limit=2${next}`)).json());
    seen.push(...page.sandboxes.map((entry) => entry.id));
    cursor = page.next_cursor;
  }
  expect(new Set(seen).size).toBe(5);
  expect(seen).toHaveLength(5);
});
