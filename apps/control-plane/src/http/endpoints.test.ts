import { endpoints, parameterNames, sandboxListSchema, sandboxSchema, type Endpoint, type EndpointId } from "@roost/contract";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { askEndpoint, bodyOfExample, codeOf, pathOfExample, type Answer } from "../testing/ask-endpoint.ts";
import { plant, type PathParameter, type Planted } from "../testing/planted.ts";
import { World } from "../testing/world.ts";

/** Questions asked of every endpoint of the table: what they make of requests that are wrong. Who may send any is authorization.test.ts's. */

let world: World;
let planted: Planted;
beforeAll(async () => {
  world = await World.start({ options: { buildsAtOnce: 0 } });
  planted = await plant(world, "first");
}, 120_000);
afterAll(async () => world[Symbol.asyncDispose]());

const all = Object.entries(endpoints) as [EndpointId, Endpoint][];
const unknownId = "idoesnotexist";
const unknownBuildId = "00000000-0000-4000-8000-000000000000";
const unknown = { id: unknownId, build: unknownBuildId, name: "no-such-name", operation: unknownBuildId };

const pathOf = (id: EndpointId, instead: Partial<Record<PathParameter, string>> = unknown) => pathOfExample(id, planted, instead);
const bodyOf = (id: EndpointId) => bodyOfExample(id, planted);
const only = (wanted: (endpoint: Endpoint) => boolean) => all.filter(([, endpoint]) => wanted(endpoint));
const isJson = ({ body }: Endpoint) => body !== undefined && body !== "stream";

/** As the platform's admin, or as a person where it is for people. */
async function ask(id: EndpointId, path: string, body: unknown, headers: Record<string, string> = {}): Promise<Answer> {
  const caller =
    endpoints[id].access === "session" ? { "x-api-key": "", authorization: `Bearer ${planted.session}` } : { "x-api-key": world.key };
  return askEndpoint(world, id, path, { headers: { ...caller, ...headers }, body });
}

/** What others send to the page that a provider leads back to is not ours to choose. */
const takesAnyQuery: ReadonlySet<EndpointId> = new Set(["finishGithub"] as const);

describe.each(all.filter(([id]) => !takesAnyQuery.has(id)))("%s", (id) => {
  test("refuses a query parameter there is not", async () => {
    const path = pathOf(id);
    const answer = await ask(id, `${path}${path.includes("?") ? "&" : "?"}bogus=1`, bodyOf(id));
    expect(codeOf(answer)).toBe("request_invalid");
    expect(answer.body).toContain("bogus");
  });
});

describe.each(only((endpoint) => endpoint.path.includes("{id}")))("%s of a sandbox", (id) => {
  test("says that an unknown one is unknown", async () => {
    expect(codeOf(await ask(id, pathOf(id), bodyOf(id)))).toBe("sandbox_not_found");
  });

  test("refuses what can be no id", async () => {
    for (const bad of ["UPPER", "with-dash", "x".repeat(41), "\0", "i/../..", "🐔"]) {
      const answer = await ask(id, pathOf(id, { id: bad }), bodyOf(id));
      expect(codeOf(answer)).toBe("request_invalid");
      expect(answer.body).toContain("1 to 40 lower-case letters and digits");
    }
  });
});

describe.each(only((endpoint) => endpoint.path.includes("{build}")))("%s of a build", (id) => {
  test("says that an unknown one is unknown", async () => {
    expect(codeOf(await ask(id, pathOf(id), bodyOf(id)))).toBe("build_not_found");
  });

  test("refuses what can be no id", async () => {
    for (const bad of ["1", "UPPER", "\0", `${unknownBuildId}0`, "../.."]) {
      expect(codeOf(await ask(id, pathOf(id, { build: bad }), bodyOf(id)))).toBe("request_invalid");
    }
  });
});

describe.each(only(({ path }) => path.includes("{")))("%s", (id, { path }) => {
  test("refuses what can be none of what its path names", async () => {
    for (const parameter of parameterNames(path)) {
      const tooLong = `${"x".repeat(300)}!`;
      for (const bad of parameter === "selector" ? [tooLong] : ["\0", tooLong]) {
        expect(codeOf(await ask(id, pathOf(id, { ...unknown, [parameter]: bad }), bodyOf(id))), parameter).toBe("request_invalid");
      }
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

describe.each(only(isJson))("%s with a body", (id) => {
  test.each(hostileBodies)("refuses %j", async (body) => {
    const answer = await ask(id, pathOf(id), body, { "content-type": "application/json" });
    expect(codeOf(answer)).toBe("request_invalid");
  });

  test("refuses other types and more than it takes", async () => {
    const path = pathOf(id);
    expect(codeOf(await ask(id, path, "{}", { "content-type": "text/plain" }))).toBe("media_type_unsupported");
    const large = `{"a":"${"x".repeat(1024 * 1024)}"}`;
    expect(codeOf(await ask(id, path, large, { "content-type": "application/json" }))).toBe("request_too_large");
  });
});

test.each(only(({ webSocket }) => webSocket === undefined))("%s carries the request's id", async (id, { method }) => {
  const path = pathOf(id);
  // of any answer, so a refusal will do: nothing is done
  const answer = await world.request(method, path, undefined, { "x-api-key": "wrong", "x-request-id": "my-own.id_1" });
  expect(answer.headers.get("x-request-id")).toBe("my-own.id_1");
  await answer.text();
  const other = await world.request(method, path, undefined, { "x-api-key": "wrong", "x-request-id": "no good\tid" });
  expect(other.headers.get("x-request-id")).toMatch(/^req_[0-9a-f]{16}$/);
  await other.text();
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
