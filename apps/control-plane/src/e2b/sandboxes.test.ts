import { poll } from "@roost/kit";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

import { askE2b, makeE2bSandbox, type E2bAnswer } from "../testing/e2b-calls.ts";
import { hostError } from "../testing/fake-host.ts";
import { World } from "../testing/world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start({ options: { domain: "sandboxes.example.org" } });
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());
afterEach(async () => {
  for (const { sandboxID } of (await (await world.request("GET", "/v2/sandboxes")).json()) as { sandboxID: string }[]) {
    await world.request("DELETE", `/sandboxes/${sandboxID}`);
  }
});

const ask = async (method: string, path: string, body?: unknown) => askE2b(world, method, path, body);
const make = async (more: object = {}, path?: string) => makeE2bSandbox(world, more, path);
const detail = async (id: string) => (await ask("GET", `/sandboxes/${id}`)).body;
const idsOf = (answer: E2bAnswer) => (answer.body as unknown as { sandboxID: string }[]).map(({ sandboxID }) => sandboxID);
const secondsOf = (body: Record<string, unknown>) => (Date.parse(String(body["endAt"])) - Date.parse(String(body["startedAt"]))) / 1000;

describe("a create", () => {
  test("with what the SDK sends answers with what it needs", async () => {
    const body = await make({ metadata: { a: "b" }, envVars: { X: "1" }, allow_internet_access: true });
    expect(body).toEqual({
      templateID: "base",
      alias: "base",
      sandboxID: expect.stringMatching(/^[a-z0-9]+$/),
      clientID: expect.stringMatching(/^[0-9a-f]{8}$/),
      envdVersion: "0.6.13",
      envdAccessToken: expect.stringMatching(/^[0-9a-f]{64}$/),
      trafficAccessToken: null,
      domain: "sandboxes.example.org",
    });
    const spec = world.host.sandboxes.get(body.sandboxID)?.spec;
    expect(spec).toMatchObject({ timeoutSec: 0, envs: { X: "1" }, accessToken: body["envdAccessToken"] });
    expect(await detail(body.sandboxID)).toMatchObject({
      sandboxID: body.sandboxID,
      state: "running",
      cpuCount: 1,
      memoryMB: 512,
      diskSizeMB: 2048,
      metadata: { a: "b" },
      lifecycle: { onTimeout: "kill", autoResume: false },
      allowInternetAccess: true,
      envdAccessToken: body["envdAccessToken"],
      volumeMounts: [],
      domain: "sandboxes.example.org",
    });
  });

  test.each([
    ["/sandboxes", {}, 15],
    ["/sandboxes", { timeout: 77 }, 77],
    ["/v2/sandboxes", {}, 300],
    ["/v2/sandboxes", { timeout: null }, 300],
  ])("by %s with %j has %d s", async (path, body, sec) => {
    const answer = await ask("POST", path, { templateID: "base", ...body });
    expect(answer.status).toBe(201);
    // its end is counted from when it was seen to run, which is not before it started
    const seconds = secondsOf(await detail(String(answer.body["sandboxID"])));
    expect(seconds).toBeGreaterThanOrEqual(sec);
    expect(seconds).toBeLessThan(sec + 30);
  });

  test("is secure only where that is asked for, or the route says so", async () => {
    const open = await ask("POST", "/sandboxes", { templateID: "base" });
    expect(open.body).not.toHaveProperty("envdAccessToken");
    expect(await detail(String(open.body["sandboxID"]))).not.toHaveProperty("envdAccessToken");
    const secure = await ask("POST", "/v2/sandboxes", { templateID: "base", secure: false });
    expect(secure.body).toHaveProperty("envdAccessToken");
  });

  test("with closed ports has a token for them", async () => {
    const { sandboxID, trafficAccessToken } = await make({ network: { allowPublicTraffic: false } });
    expect(trafficAccessToken).toMatch(/^[0-9a-f]{64}$/);
    expect(await detail(sandboxID)).toMatchObject({ network: { allowPublicTraffic: false } });
  });

  test("keeps what becomes of it when its time is up", async () => {
    const { sandboxID } = await make({ autoPause: true, autoResume: { enabled: true } });
    expect(await detail(sandboxID)).toMatchObject({ lifecycle: { onTimeout: "pause", autoResume: true } });
  });

  test("passes over what it does not know, what is null, and what asks for nothing", async () => {
    await make({
      fromTheFuture: { a: 1 },
      metadata: null,
      envVars: null,
      mcp: { x: {} },
      iam: { tokens: {} },
      volumeMounts: [],
      autoPause: null,
    });
    await make({ network: { rules: {}, allowOut: null, futureField: true } });
  });

  test.each([
    [{ templateID: undefined }, "templateID"],
    [{ templateID: 1 }, "templateID"],
    [{ timeout: 0 }, "timeout must be greater than 0"],
    [{ timeout: -1 }, "timeout must be greater than 0"],
    [{ timeout: 1.5 }, "timeout"],
    [{ timeout: "60" }, "timeout"],
    [{ timeout: 31_536_001 }, "timeout cannot be greater than 8760 hours"],
    [{ metadata: { a: 1 } }, "metadata.a"],
    [{ metadata: [] }, "metadata"],
    [{ envVars: { "a=b": "x" } }, "envVars"],
    [{ secure: "yes" }, "secure"],
    [{ autoPause: 1 }, "autoPause"],
    [{ autoResume: true }, "autoResume"],
    [{ network: "none" }, "network"],
    [{ network: { allowOut: ["not an address"] } }, "allowOut"],
    [{ network: { allowPublicTraffic: false }, secure: false }, "secure: true"],
    [{ network: { rules: { "example.com": [{ transform: { headers: { host: "b" } } }] } } }, "rules"],
    [{ volumeMounts: [{ name: "v", path: "/v" }] }, "volumeMounts"],
    [{ iam: { tokens: { t: { tokenType: "JWT-SVID", audience: "x" } } } }, "iam.tokens"],
    [{ autoPauseMemory: false }, "autoPause: true"],
    [{ autoPauseMemory: false, autoPause: true, autoResume: { enabled: true } }, "autoResume"],
  ])("with %j is refused and names it", async (more, named) => {
    const { status, body } = await ask("POST", "/sandboxes", { templateID: "base", secure: true, ...more });
    expect(status).toBe(400);
    expect(body).toMatchObject({ code: 400, error_code: "request_invalid", message: expect.stringContaining(named) });
  });

  test.each(["nothing", "nothing:v1", "no such thing", "../base", "x".repeat(200)])("of %s does not find it", async (templateID) => {
    const { status, body } = await ask("POST", "/sandboxes", { templateID });
    expect(status).toBe(404);
    expect(body).toMatchObject({ code: 404, error_code: "template_not_found" });
  });

  test("takes names as E2B writes them", async () => {
    for (const templateID of ["base:default", "default/base"]) expect(await make({ templateID })).toMatchObject({ templateID: "base" });
  });

  test("that fails on the host never answers with 502, which would mean that a sandbox is gone", async () => {
    world.host.createFailure = hostError("sandbox_start_failed", "the guest did not answer");
    expect(await ask("POST", "/sandboxes", { templateID: "base" })).toMatchObject({ status: 500, body: { code: 500 } });
    world.host.createFailure = hostError("capacity_exhausted", "full");
    expect(await ask("POST", "/sandboxes", { templateID: "base" })).toMatchObject({ status: 503, body: { code: 503 } });
  });
});

describe("the list", () => {
  test("has pages that follow each other, newest first or oldest first, and tells how many run", async () => {
    const made: string[] = [];
    for (let index = 0; index < 7; index += 1) made.push((await make({ metadata: { set: "pages" } })).sandboxID);
    for (const order of ["desc", "asc"]) {
      const seen: { sandboxID: string; startedAt: string }[] = [];
      let token: string | null = "";
      while (token !== null) {
        const next: string = token === "" ? "" : `&nextToken=${token}`;
        const page = await ask("GET", `/v2/sandboxes?metadata=set%3Dpages&limit=3&order=${order}${next}`);
        expect(page.headers.get("x-total-running")).toBe("7");
        seen.push(...(page.body as unknown as typeof seen));
        token = page.headers.get("x-next-token");
      }
      expect(seen.map(({ sandboxID }) => sandboxID).sort()).toEqual([...made].sort());
      const times = seen.map(({ startedAt }) => Date.parse(startedAt));
      expect(times).toEqual([...times].sort((a, b) => (order === "asc" ? a - b : b - a)));
    }
  });

  test("finds by metadata, state, template and start", async () => {
    const one = await make({ metadata: { a: "b c", x: "&=+%" } });
    const other = await make({ metadata: { a: "other" } });
    await ask("POST", `/sandboxes/${other.sandboxID}/pause`);
    const byMetadata = encodeURIComponent(new URLSearchParams({ a: encodeURIComponent("b c"), x: encodeURIComponent("&=+%") }).toString());
    expect(idsOf(await ask("GET", `/v2/sandboxes?metadata=${byMetadata}`))).toEqual([one.sandboxID]);
    expect(idsOf(await ask("GET", "/v2/sandboxes?metadata=a%3Db%252520c"))).toEqual([one.sandboxID]);
    expect(idsOf(await ask("GET", "/v2/sandboxes?state=paused"))).toEqual([other.sandboxID]);
    expect(idsOf(await ask("GET", "/v2/sandboxes?state=running"))).toEqual([one.sandboxID]);
    expect(idsOf(await ask("GET", "/v2/sandboxes?state=running,paused")).sort()).toEqual([one.sandboxID, other.sandboxID].sort());
    expect(idsOf(await ask("GET", "/v2/sandboxes?state=running&state=paused"))).toHaveLength(2);
    expect(idsOf(await ask("GET", "/v2/sandboxes?template=base:default"))).toHaveLength(2);
    expect(idsOf(await ask("GET", "/v2/sandboxes?template=nothing"))).toEqual([]);
    expect(idsOf(await ask("GET", "/v2/sandboxes?template=no%20name"))).toEqual([]);
    expect(idsOf(await ask("GET", "/v2/sandboxes?startedAfter=2999-01-01T00:00:00Z"))).toEqual([]);
    expect(idsOf(await ask("GET", "/v2/sandboxes?startedAfter=2001-01-01T00:00:00%2B02:00"))).toHaveLength(2);
    expect(idsOf(await ask("GET", "/sandboxes"))).toEqual([one.sandboxID]);
    expect(idsOf(await ask("GET", "/sandboxes?metadata=a%3Dother"))).toEqual([]);
  });

  test("shows no token", async () => {
    const { envdAccessToken } = await make();
    expect(JSON.stringify((await ask("GET", "/v2/sandboxes")).body)).not.toContain(String(envdAccessToken));
  });

  test.each([
    "limit=0",
    "limit=101",
    "limit=x",
    "state=stopped",
    "order=up",
    "startedAfter=yesterday",
    "nextToken=%00",
    "metadata=%25",
    "metadata=a%3D%2500",
  ])("with %s is refused", async (query) => {
    const { status, body } = await ask("GET", `/v2/sandboxes?${query}`);
    expect(status).toBe(400);
    expect(body["message"]).toContain(query.split("=")[0]);
  });
});

test("a kill is once; a paused one can be killed; what was killed is not there", async () => {
  const { sandboxID: id } = await make();
  await ask("POST", `/sandboxes/${id}/pause`);
  expect((await ask("DELETE", `/sandboxes/${id}`)).status).toBe(204);
  expect((await ask("DELETE", `/sandboxes/${id}`)).status).toBe(404);
  expect((await ask("GET", `/sandboxes/${id}`)).status).toBe(404);
  expect((await ask("POST", `/sandboxes/${id}/connect`, { timeout: 60 })).status).toBe(404);
  expect((await ask("POST", `/sandboxes/${id}/fork`, {})).status).toBe(404);
});

test("old clients name a sandbox with a client id behind it", async () => {
  const { sandboxID, clientID } = await make();
  expect((await ask("GET", `/sandboxes/${sandboxID}-${String(clientID)}`)).body).toMatchObject({ sandboxID });
});

test("a sandbox of the native API is shown, with an end that is far away", async () => {
  const { id } = await world.createSandbox();
  const body = await detail(id);
  expect(body).toMatchObject({ sandboxID: id, state: "running", endAt: "9000-01-01T00:00:00.000Z" });
});

test("time that is up ends a sandbox without anybody asking", async () => {
  const { sandboxID } = await make({ timeout: 1 });
  await poll({ what: "the end", timeoutMs: 30_000, intervalMs: 10 }, async () =>
    world.host.destroyed.includes(sandboxID) ? true : undefined,
  );
  expect((await ask("GET", `/sandboxes/${sandboxID}`)).status).toBe(404);
});
