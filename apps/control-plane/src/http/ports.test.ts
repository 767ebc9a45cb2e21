import { request as httpRequest } from "node:http";

import { portExceptionsMax, sandboxPortSchema, sandboxPortsSchema, signedPortUrlSchema, trafficTokenSchema } from "@roost/contract";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { World } from "../testing/world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start({ options: { domain: "sandboxes.example.org" } });
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

const port = () => new URL(world.url).port;

async function ask(method: string, path: string, status: number, body?: unknown): Promise<unknown> {
  const answer = await world.request(method, `/v1/sandboxes/${path}`, body);
  const text = await answer.text();
  expect(answer.status, text).toBe(status);
  return text === "" ? undefined : (JSON.parse(text) as unknown);
}

describe("ports", () => {
  test("are private, where nothing else is said; what is said is kept", async () => {
    const { id } = await world.createSandbox();
    expect(sandboxPortsSchema.parse(await ask("GET", `${id}/ports`, 200))).toEqual({
      access: "private",
      ports: {},
      mask_request_host: null,
      url: `http://{port}-${id}.sandboxes.example.org:${port()}/`,
    });
    expect(sandboxPortSchema.parse(await ask("PUT", `${id}/ports/8000`, 200, { access: "public" }))).toEqual({
      port: 8000,
      access: "public",
      url: `http://8000-${id}.sandboxes.example.org:${port()}/`,
    });
    expect(await ask("GET", `${id}/ports/3000`, 200)).toMatchObject({ access: "private" });
    expect(
      await ask("PUT", `${id}/ports`, 200, { access: "public", ports: { 22: "private" }, mask_request_host: "localhost:${PORT}" }),
    ).toMatchObject({
      access: "public",
      mask_request_host: "localhost:${PORT}",
      ports: { 22: "private" },
    });
    expect(await ask("PUT", `${id}/ports/22`, 200, { access: null })).toMatchObject({ access: "public" });
    expect(await ask("GET", `${id}/ports`, 200)).toMatchObject({ access: "public", ports: {} });
  });

  test("are as a create says, and a fork's as its parent's, with a token of its own", async () => {
    const { id } = await world.createSandbox({ ports: { ports: { 3000: "public" }, mask_request_host: "localhost" } });
    const { results } = (await ask("POST", `${id}/fork`, 201, { count: 1 })) as { results: { sandbox: { id: string } }[] };
    const child = results[0]?.sandbox.id ?? "";
    expect(await ask("GET", `${child}/ports`, 200)).toMatchObject({
      access: "private",
      ports: { 3000: "public" },
      mask_request_host: "localhost",
    });
    const tokens = await Promise.all(
      [id, child].map(async (of) => trafficTokenSchema.parse(await ask("POST", `${of}/traffic-token`, 200))),
    );
    expect(tokens[0]?.token).not.toBe(tokens[1]?.token);
  });

  test("a token is the same until it is changed; a sandbox whose ports were public gets one when it is asked for", async () => {
    const { id } = await world.createSandbox();
    const { token, header } = trafficTokenSchema.parse(await ask("POST", `${id}/traffic-token`, 200));
    expect(header).toBe("roost-traffic-token");
    expect(token.length).toBeGreaterThan(20);
    expect(await ask("POST", `${id}/traffic-token`, 200)).toEqual({ token, header });
    const rotated = trafficTokenSchema.parse(await ask("POST", `${id}/traffic-token/rotate`, 200));
    expect(rotated.token).not.toBe(token);
    await world.database.db.updateTable("sandbox").set({ traffic_token: null }).where("id", "=", id).execute();
    const made = trafficTokenSchema.parse(await ask("POST", `${id}/traffic-token`, 200));
    expect(made.token).not.toBe("");
    expect(await ask("POST", `${id}/traffic-token`, 200)).toEqual(made);
  });

  test("a signed URL leads to the port it is for, until then", async () => {
    const { id } = await world.createSandbox();
    const before = Date.now();
    const { url, expires_at: end } = signedPortUrlSchema.parse(
      await ask("POST", `${id}/ports/3000/urls`, 201, { expires_in_sec: 60, path: "/a?b=c" }),
    );
    expect(url).toMatch(new RegExp(`^http://3000-${id}\\.sandboxes\\.example\\.org:${port()}/a\\?b=c&roost_access=v1\\.`));
    expect(Date.parse(end) - before).toBeGreaterThanOrEqual(60_000);
    expect(Date.parse(end) - Date.now()).toBeLessThanOrEqual(61_000);
  });

  test("of a sandbox that has ended cannot be opened any more", async () => {
    const { id } = await world.createSandbox();
    await ask("DELETE", id, 204);
    await ask("PUT", `${id}/ports`, 409, { access: "public" });
    await ask("POST", `${id}/ports/3000/urls`, 409, {});
    await ask("POST", `${id}/traffic-token/rotate`, 409);
  });

  test("there is a limit to what is said of single ones", async () => {
    const { id } = await world.createSandbox();
    const ports = Object.fromEntries(Array.from({ length: portExceptionsMax }, (_, index) => [String(1_000 + index), "public"]));
    await ask("PUT", `${id}/ports`, 400, { ports: { ...ports, 80: "public" } });
    await ask("PUT", `${id}/ports`, 200, { ports });
    await ask("PUT", `${id}/ports/80`, 400, { access: "public" });
    await ask("PUT", `${id}/ports/1000`, 200, { access: "private" });
  });

  test.each([
    ["PUT", "ports/49983", { access: "public" }],
    ["POST", "ports/49983/urls", {}],
    ["GET", "ports/49983", undefined],
    ["PUT", "ports", { ports: { 49983: "public" } }],
    ["GET", "ports/0", undefined],
    ["GET", "ports/65536", undefined],
    ["GET", "ports/080", undefined],
    ["PUT", "ports/80", { access: "open" }],
    ["PUT", "ports", { access: null }],
    ["PUT", "ports", { ports: { "80 ": "public" } }],
    ["POST", "ports/80/urls", { expires_in_sec: 0 }],
    ["POST", "ports/80/urls", { expires_in_sec: 8 * 24 * 3_600 }],
    ["POST", "ports/80/urls", { path: "//elsewhere.example" }],
    ["POST", "ports/80/urls", { path: "no-slash" }],
    ["POST", "ports/80/urls", { path: "/#fragment" }],
    ["POST", "ports/80/urls", { path: "/?roost_access=x" }],
  ])("%s %s %o is refused", async (method, path, body) => {
    const { id } = await world.createSandbox();
    expect(await ask(method, `${id}/${path}`, 400, body)).toMatchObject({ error: { code: "request_invalid" } });
  });
});

describe("through the data plane", () => {
  const get = async (url: string, headers: Record<string, string> = {}) => {
    const { host, pathname, search } = new URL(url);
    return new Promise<number>((resolve, reject) => {
      const request = httpRequest(
        { host: "127.0.0.1", port: port(), path: pathname + search, headers: { host, ...headers } },
        (response) => {
          response.resume().on("end", () => resolve(response.statusCode ?? 0));
        },
      );
      request.on("error", reject).end();
    });
  };

  test("what the API says holds at once", async () => {
    const { id } = await world.createSandbox();
    const { url } = sandboxPortSchema.parse(await ask("GET", `${id}/ports/3000`, 200));
    // The fake guest has no such port: 502 means that the request got as far as there
    expect(await get(url)).toBe(403);
    const signed = signedPortUrlSchema.parse(await ask("POST", `${id}/ports/3000/urls`, 201, {}));
    expect(await get(signed.url)).toBe(502);
    const { token } = trafficTokenSchema.parse(await ask("POST", `${id}/traffic-token`, 200));
    expect(await get(url, { "roost-traffic-token": token })).toBe(502);
    await ask("POST", `${id}/traffic-token/rotate`, 200);
    expect(await get(signed.url)).toBe(403);
    expect(await get(url, { "roost-traffic-token": token })).toBe(403);
    await ask("PUT", `${id}/ports/3000`, 200, { access: "public" });
    expect(await get(url)).toBe(502);
    await ask("PUT", `${id}/ports/3000`, 200, { access: "private" });
    expect(await get(url)).toBe(403);
  });
});
