import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { endpoints, errorBodySchema, meSchema, signedInSchema, teamQuotaSchema, type SignedIn } from "@roost/contract";
import { must } from "@roost/kit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { setUpCodeOf } from "../accounts/set-up.ts";
import { FakeMailer, goodPassword } from "../testing/accounts-lab.ts";
import { World } from "../testing/world.ts";

/** Accounts over HTTP: cookies, origins, headers, and the way from the route to the result. */

let world: World;
let mailer: FakeMailer;
const secretKey = "5e".repeat(32);
beforeAll(async () => {
  mailer = new FakeMailer(false);
  world = await World.start({ mailer, options: { signup: "open", trustedProxies: [], secretKey } });
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

/** Without the world's key. */
const ask = (method: string, path: string, body?: unknown, headers: Record<string, string> = {}) =>
  fetch(world.url + path, {
    method,
    redirect: "manual",
    headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
const codeOf = async (answer: Response) => errorBodySchema.parse(await answer.json()).error.code;
const cookieOf = (answer: Response) => must(answer.headers.get("set-cookie"), "a cookie").split(";", 1)[0] ?? "";

let count = 0;
async function signUp(): Promise<SignedIn & { readonly email: string }> {
  count += 1;
  const email = `user${count}@example.org`;
  const answer = await ask("POST", "/v1/auth/signup", {
    email,
    password: goodPassword,
    name: `User ${count}`,
    setup_code: setUpCodeOf(secretKey),
  });
  expect(answer.status).toBe(201);
  const body = (await answer.json()) as { signed_in: SignedIn };
  return { ...signedInSchema.parse(body.signed_in), email };
}
const bearer = (signedIn: SignedIn) => ({ authorization: `Bearer ${signedIn.token}` });
async function loginWithCookie(email: string): Promise<{ readonly answer: Response; readonly cookie: string }> {
  const answer = await ask("POST", "/v1/auth/login", { email, password: goodPassword, deliver: "cookie" });
  expect(answer.status).toBe(200);
  return { answer, cookie: cookieOf(answer) };
}

test("from a sign-up to a sandbox of one's own team, which another team does not see", async () => {
  const ada = await signUp();
  const bob = await signUp();
  const me = meSchema.parse(await (await ask("GET", "/v1/me", undefined, bearer(bob))).json());
  expect(me).toMatchObject({ user: { email: bob.email }, role: "owner", team_id: bob.team_id, is_admin: false });
  const created = await ask("POST", "/v1/sandboxes", {}, bearer(bob));
  expect(created.status).toBe(201);
  const { id } = (await created.json()) as { id: string };
  expect((await ask("GET", `/v1/sandboxes/${id}`, undefined, bearer(bob))).status).toBe(200);
  expect(await codeOf(await ask("GET", `/v1/sandboxes/${id}`, undefined, bearer(ada)))).toBe("sandbox_not_found");
  expect(await codeOf(await ask("DELETE", `/v1/teams/${bob.team_id}`, undefined, bearer(bob)))).toBe("team_in_use");
  expect((await ask("DELETE", `/v1/sandboxes/${id}`, undefined, bearer(bob))).status).toBe(204);
  expect((await ask("DELETE", `/v1/teams/${bob.team_id}`, undefined, bearer(bob))).status).toBe(204);
  expect(await codeOf(await ask("POST", "/v1/sandboxes", {}, bearer(bob)))).toBe("scope_missing");
});

test("the key that starts the platform knows who it is, and may administer", async () => {
  const me = meSchema.parse(await (await world.request("GET", "/v1/me")).json());
  expect(me).toMatchObject({ user: null, is_admin: true, team_id: "default", role: null });
  expect((await world.request("GET", "/v1/admin/users")).status).toBe(200);
  expect((await world.request("GET", "/v1/teams/default/members")).status).toBe(200);
});

test("a member of a team is no admin of the platform", async () => {
  await signUp();
  const eve = await signUp();
  for (const path of ["/v1/admin/users", "/v1/admin/teams"]) {
    expect(await codeOf(await ask("GET", path, undefined, bearer(eve)))).toBe("admin_only");
  }
});

describe("cookies", () => {
  test("no script can read a session's, other sites do not send it, and the answer does not repeat it", async () => {
    const { email } = await signUp();
    const { answer, cookie } = await loginWithCookie(email);
    const set = must(answer.headers.get("set-cookie"), "a cookie");
    expect(set).toMatch(/^roost_session=session_[0-9a-f]{64}; Max-Age=\d+; Path=\/; HttpOnly; SameSite=Lax$/);
    expect(await answer.json()).toMatchObject({ token: null });
    expect((await ask("GET", "/v1/me", undefined, { cookie })).status).toBe(200);
  });

  test("over TLS it is bound to the host and to TLS", async () => {
    const tls = await World.start({ mailer: new FakeMailer(false), options: { publicUrl: "https://roost.example.org", secretKey } });
    try {
      const answer = await fetch(`${tls.url}/v1/auth/signup`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({
          email: "a@example.org",
          password: goodPassword,
          name: "A",
          deliver: "cookie",
          setup_code: setUpCodeOf(secretKey),
        }),
      });
      const set = must(answer.headers.get("set-cookie"), "a cookie");
      expect(set).toMatch(/^__Host-roost_session=session_[0-9a-f]{64}; .*Path=\/; HttpOnly; Secure; SameSite=Lax$/);
      expect(set).not.toMatch(/domain/i);
    } finally {
      await tls[Symbol.asyncDispose]();
    }
  });

  test("what changes something is refused from other sites' pages, and without a page", async () => {
    const { email } = await signUp();
    const { cookie } = await loginWithCookie(email);
    const attempt = (headers: Record<string, string>) => ask("PATCH", "/v1/me", { name: "Changed" }, { cookie, ...headers });
    for (const origin of ["https://evil.example", "null", `${world.url}.evil.example`, "http://127.0.0.1:1"]) {
      expect(await codeOf(await attempt({ origin })), origin).toBe("origin_forbidden");
    }
    expect(await codeOf(await attempt({}))).toBe("origin_forbidden");
    expect((await attempt({ origin: world.url })).status).toBe(200);
  });

  test("every endpoint that changes something with a session refuses a foreign page", async () => {
    const { email } = await signUp();
    const { cookie } = await loginWithCookie(email);
    for (const [id, endpoint] of Object.entries(endpoints)) {
      if (endpoint.method === "GET" || (endpoint.access as string) === "open") continue;
      const path = endpoint.path.replaceAll(/\{\w+\}/g, "x");
      const answer = await ask(endpoint.method, path, {}, { cookie, origin: "https://evil.example" });
      expect(`${id} ${await codeOf(answer)}`).toBe(`${id} origin_forbidden`);
    }
  });

  test("WebSockets with a cookie are opened by our own pages only", async () => {
    const { email } = await signUp();
    const { cookie } = await loginWithCookie(email);
    for (const headers of [{ cookie }, { cookie, origin: "https://evil.example" }]) {
      const socket = world.socket("/v1/sandboxes/inone/pty", { headers: { "x-api-key": "", ...headers } });
      const end = await socket.ended;
      expect(end.status, JSON.stringify(headers)).toBe(403);
    }
    const own = world.socket("/v1/sandboxes/inone/pty", { headers: { "x-api-key": "", cookie, origin: world.url } });
    expect(await own.ended).toMatchObject({ status: 404 });
  });

  test("a page of another site cannot sign its visitor in", async () => {
    const { email } = await signUp();
    for (const path of ["/v1/auth/login", "/v1/auth/signup"]) {
      const body = { email, password: goodPassword, name: "N", deliver: "cookie" };
      const { name: _name, ...loginBody } = body;
      const answer = await ask("POST", path, path.endsWith("login") ? loginBody : body, { origin: "https://evil.example" });
      expect(await codeOf(answer)).toBe("origin_forbidden");
      expect(answer.headers.get("set-cookie")).toBeNull();
    }
  });

  test("signing out takes the cookie back and ends the session", async () => {
    const { email } = await signUp();
    const { cookie } = await loginWithCookie(email);
    const answer = await ask("POST", "/v1/auth/logout", undefined, { cookie, origin: world.url });
    expect(answer.status).toBe(204);
    expect(answer.headers.get("set-cookie")).toMatch(/^roost_session=; Max-Age=0;/);
    expect(await codeOf(await ask("GET", "/v1/me", undefined, { cookie }))).toBe("api_key_invalid");
  });
});

test("a request acts for the team it names, else for the session's", async () => {
  const ada = await signUp();
  const made = await ask("POST", "/v1/teams", { name: "Second" }, bearer(ada));
  const team = (await made.json()) as { id: string; role: string };
  expect(team.role).toBe("owner");
  const teamOf = async (headers: Record<string, string>) =>
    meSchema.parse(await (await ask("GET", "/v1/me", undefined, headers)).json()).team_id;
  expect(await teamOf(bearer(ada))).toBe(ada.team_id);
  expect(await teamOf({ ...bearer(ada), "x-team-id": team.id })).toBe(team.id);
  expect((await ask("PUT", "/v1/me/team", { team_id: team.id }, bearer(ada))).status).toBe(200);
  expect(await teamOf(bearer(ada))).toBe(team.id);
  for (const id of ["default", "nonsense", `g${"0".repeat(20)}`]) {
    const code = await codeOf(await ask("GET", "/v1/me", undefined, { ...bearer(ada), "x-team-id": id }));
    // the very first user of this file owns `default`
    expect(code).toBe("team_not_found");
  }
});

test("requests above a team's quota are refused, with when to come again", async () => {
  const ada = await signUp();
  const quota = teamQuotaSchema.parse({ requests_per_minute: 2 });
  expect((await world.request("PUT", `/v1/admin/teams/${ada.team_id}/quota`, quota)).status).toBe(200);
  const statuses = [];
  for (let request = 0; request < 4; request += 1) {
    const answer = await ask("GET", "/v1/me", undefined, bearer(ada));
    statuses.push(answer.status);
    if (answer.status === 429) expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
    await answer.text();
  }
  expect(statuses).toEqual([200, 200, 429, 429]);
  expect((await world.request("GET", "/v1/me")).status, "others go on").toBe(200);
});

test("secrets are not repeated in refusals", async () => {
  for (const body of [
    { email: "a@example.org", password: "secretsecret".repeat(60), name: "A" },
    { email: "a@example.org", password: "short", name: "A", invitation: "notatoken-secret" },
  ]) {
    const text = await (await ask("POST", "/v1/auth/signup", body)).text();
    expect(text).not.toMatch(/secretsecret|notatoken|short\b/);
  }
});

test("an address and its own spelling are one account; what is no address is refused", async () => {
  const { email } = await signUp();
  const again = await ask("POST", "/v1/auth/signup", { email: ` ${email.toUpperCase()} `, password: goodPassword, name: "A" });
  expect(await codeOf(again)).toBe("email_taken");
  for (const bad of ["", "x", "a@b", "a b@example.org", "a@example.org\r\nBcc: b@example.org", `${"a".repeat(250)}@example.org`]) {
    expect(await codeOf(await ask("POST", "/v1/auth/signup", { email: bad, password: goodPassword, name: "A" }))).toBe("request_invalid");
  }
});

test("what signs in has nothing of it in the URL, and is not stored by caches", async () => {
  const { token } = await signUp();
  expect(await codeOf(await ask("GET", `/v1/me?token=${token}`))).toBe("api_key_invalid");
  const answer = await ask("GET", "/v1/auth/methods");
  expect(answer.headers.get("cache-control")).toBe("no-store");
  expect(await answer.json()).toEqual({ sign_up: "open", is_first: false, has_mail: false, github: false });
});

test("a link on another site's page does not connect GitHub to its visitor's account", async () => {
  const { email } = await signUp();
  const { cookie } = await loginWithCookie(email);
  const start = async (headers: Record<string, string>) =>
    codeOf(await ask("GET", "/v1/auth/github?connect=1", undefined, { cookie, ...headers }));
  for (const site of ["cross-site", "same-site"]) expect(await start({ "sec-fetch-site": site }), site).toBe("origin_forbidden");
  for (const site of ["same-origin", "none"]) expect(await start({ "sec-fetch-site": site }), site).toBe("provider_unavailable");
  expect(await start({})).toBe("provider_unavailable");
});

test("a platform without an admin puts the set-up code into its state folder, until somebody used it", async () => {
  const dir = await mkdtemp(join(tmpdir(), "roost-set-up-"));
  const fresh = await World.start({ mailer: new FakeMailer(false), options: { dir } });
  try {
    const setupCode = (await readFile(join(dir, "setup-code"), "utf8")).trim();
    const methods = async () => (await (await fetch(`${fresh.url}/v1/auth/methods`)).json()) as { is_first: boolean };
    expect(await methods()).toMatchObject({ is_first: true });
    const signUpWith = async (email: string, code: object) => {
      const body = { email, password: goodPassword, name: "A", ...code };
      const headers = { "content-type": "application/json" };
      return fetch(`${fresh.url}/v1/auth/signup`, { method: "POST", headers, body: JSON.stringify(body) });
    };
    expect(await codeOf(await signUpWith("eve@example.org", {}))).toBe("signup_closed");
    const made = (await (await signUpWith("ada@example.org", { setup_code: setupCode })).json()) as { signed_in: SignedIn };
    expect(made.signed_in.user.is_admin).toBe(true);
    expect(await methods()).toMatchObject({ is_first: false });
    await expect(readFile(join(dir, "setup-code"))).rejects.toThrow("ENOENT");
  } finally {
    await fresh[Symbol.asyncDispose]();
    await rm(dir, { recursive: true });
  }
});
