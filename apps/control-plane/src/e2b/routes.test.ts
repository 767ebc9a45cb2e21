import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { askE2b } from "../testing/e2b-calls.ts";
import { World } from "../testing/world.ts";
import { e2bRoutes, isE2bPath, type E2bRoute, type E2bRouteId } from "./route-table.ts";

/** Questions asked of every route of the table. */

let world: World;
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

const all = Object.entries(e2bRoutes) as [E2bRouteId, E2bRoute][];
const only = (wanted: (route: E2bRoute) => boolean) => all.filter(([, route]) => wanted(route));

function pathOf(route: E2bRoute, id = "idoesnotexist"): string {
  return route.path.replace("{sandboxID}", id).replaceAll(/\{\w+\}/g, "something");
}

/** What a route needs besides the path, so that nothing but that is wrong. */
const bodies: Partial<Record<E2bRouteId, object>> = {
  createSandbox: { templateID: "base" },
  createSandboxV2: { templateID: "base" },
  connectSandbox: { timeout: 60 },
  setSandboxTimeout: { timeout: 60 },
};

interface Body {
  readonly code?: number;
  readonly message?: string;
  readonly error_code?: string;
}

async function ask(id: E2bRouteId, route: E2bRoute, path: string, headers: Record<string, string> = {}, body?: unknown) {
  return askE2b<Body>(world, route.method, path, body ?? (route.method === "GET" ? undefined : bodies[id]), headers);
}

describe.each(all)("%s", (id, route) => {
  test("refuses a caller without a key, or with a wrong one, in E2B's form", async () => {
    for (const headers of [
      { "x-api-key": "" },
      { "x-api-key": `e2b_${"0".repeat(40)}` },
      { "x-api-key": "", authorization: "Bearer sk_e2b_0" },
    ]) {
      const { status, body } = await ask(id, route, pathOf(route), headers);
      expect(status).toBe(401);
      expect(body).toMatchObject({ code: 401, message: expect.any(String), error_code: "api_key_invalid" });
    }
  });

  test("is of E2B's paths, and tells other methods from it", async () => {
    expect(isE2bPath(pathOf(route))).toBe(true);
    const answer = await world.request("OPTIONS", pathOf(route));
    expect(answer.status).toBe(405);
    expect(answer.headers.get("allow")?.split(", ")).toContain(route.method);
    expect(await answer.json()).toMatchObject({ code: 405, error_code: "method_not_allowed" });
  });
});

describe.each(only((route) => route.path.includes("{sandboxID}") && route.refused === undefined))("%s of a sandbox", (id, route) => {
  test.each(["idoesnotexist", "idoesnotexist-00000000", "UPPER", "no-such-sandbox-id", "%00", "x".repeat(100), "%F0%9F%90%94"])(
    "does not find %s",
    async (sandboxId) => {
      const { status, body } = await ask(id, route, pathOf(route, sandboxId));
      expect(status, JSON.stringify(body)).toBe(404);
      expect(body).toMatchObject({ code: 404, error_code: "sandbox_not_found" });
    },
  );
});

describe.each(only((route) => route.refused !== undefined))("%s", (id, route) => {
  test("is refused, and says why", async () => {
    const { status, body } = await ask(id, route, pathOf(route));
    expect(status).toBe(501);
    expect(body).toMatchObject({ code: 501, error_code: "feature_unsupported" });
    expect(body.message).toContain(route.refused);
  });
});

describe.each(only((route) => ["POST", "PUT"].includes(route.method)))("%s with a body", (id, route) => {
  test.each(["{", "[]", '"text"', "1", '{"__proto__":{"x":1}}', "\0", '{"a":1}}'])("does not fall over %j", async (body) => {
    const { status, body: answer } = await ask(id, route, pathOf(route), { "content-type": "application/json" }, body);
    expect(answer).toMatchObject({ code: status, message: expect.any(String) });
    expect([400, 404, 501]).toContain(status);
  });
});

test("a path of E2B's that has no route is not found in E2B's form", async () => {
  const answer = await world.request("GET", "/sandboxes/i1/no/such/thing");
  expect(answer.status).toBe(404);
  expect(await answer.json()).toMatchObject({ code: 404, error_code: "route_not_found" });
});

test("both forms of a key are the same key, in a header of either kind", async () => {
  const digits = world.key.split("_")[1];
  for (const headers of [{ "x-api-key": `e2b_${digits}` }, { "x-api-key": `roost_${digits}` }, { authorization: `Bearer e2b_${digits}` }]) {
    const answer = await fetch(`${world.url}/v2/sandboxes`, { headers });
    expect(answer.status).toBe(200);
    expect(await answer.json()).toEqual([]);
  }
});

test("the one team comes with the caller's own key, as E2B's clients write it", async () => {
  const [team, ...others] = (await (await world.request("GET", "/teams")).json()) as Record<string, unknown>[];
  expect(others).toEqual([]);
  expect(team).toEqual({
    teamID: "default",
    name: "default",
    apiKey: world.key.replace("roost_", "e2b_"),
    isDefault: true,
  });
});
