import { createHash } from "node:crypto";

import { githubQuerySchema, loginBodySchema } from "@roost/contract";
import { minute } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { AccountsLab, forgetAccounts, goodPassword } from "../testing/accounts-lab.ts";
import { codeOf } from "../testing/code-of.ts";
import { FakeGithub, type FakeGithubUser } from "../testing/fake-github.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import type { Arrival } from "./github-sign-ins.ts";
import { parseReturnAddress } from "./return-address.ts";
import type { SessionCaller } from "./session-authenticator.ts";

let github: FakeGithub;
let database: Database;
let lab: AccountsLab;
beforeAll(async () => {
  github = await FakeGithub.start();
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => {
  await github[Symbol.asyncDispose]();
  await database.close();
});
beforeEach(async () => {
  await forgetAccounts(database.db);
  github.fault = undefined;
  const { url: githubUrl, clientId: githubClientId, clientSecret: githubClientSecret } = github;
  lab = new AccountsLab(database.db, { signup: "open", githubUrl, githubClientId, githubClientSecret });
});
afterEach(() => lab[Symbol.dispose]());

const ada: FakeGithubUser = { id: 7, login: "ada", name: "Ada L", emails: [{ email: "Ada@example.org", primary: true, verified: true }] };
const depart = (query: object = {}, caller?: SessionCaller) =>
  lab.accounts.github.depart(githubQuerySchema.parse(query), caller, lab.requester());
const paramsOf = (url: URL) => ({ code: url.searchParams.get("code") ?? undefined, state: url.searchParams.get("state") ?? undefined });

/** The whole way, in one browser. */
async function travel(user: FakeGithubUser, query: object = {}, caller?: SessionCaller): Promise<Arrival> {
  const { url, browserSecret } = await depart(query, caller);
  return lab.accounts.github.arrive(paramsOf(github.approve(url, user)), browserSecret, lab.requester());
}
const errorOf = (arrival: Arrival) => new URL(arrival.url, "http://x").searchParams.get("error");
const users = () => database.db.selectFrom("user_account").selectAll().orderBy("time_created").execute();

test("somebody new gets an account, and the same one when they come again, whatever they are called by then", async () => {
  const first = await travel(ada, { return_to: "/start?x=1#y" });
  expect(first.url).toBe("/start?x=1#y");
  expect(first.session).toBeDefined();
  expect(await users()).toMatchObject([{ email: "ada@example.org", name: "Ada L", password_hash: null, is_admin: false }]);
  const renamed = { ...ada, login: "ada2", emails: [{ email: "other@example.org", primary: true, verified: true }] };
  const second = await travel(renamed);
  expect(second.session?.row.user_id).toBe(first.session?.row.user_id);
  expect(await users()).toHaveLength(1);
});

test("an address that GitHub has not verified is none, also when another one is verified", async () => {
  const unverified = {
    ...ada,
    emails: [
      { email: "ada@example.org", primary: true, verified: false },
      { email: "b@example.org", primary: false, verified: true },
    ],
  };
  expect(errorOf(await travel(unverified))).toBe("login_failed");
  expect(await users()).toEqual([]);
});

test("state works once, for ten minutes, in the browser that set out, and only if we made it", async () => {
  const { arrive } = { arrive: (query: object, secret?: string) => lab.accounts.github.arrive(query, secret, lab.requester()) };
  const { url, browserSecret } = await depart();
  const back = paramsOf(github.approve(url, ada));
  expect(await codeOf(arrive({ ...back, state: "f".repeat(64) }, browserSecret)), "forged").toBe("token_invalid");
  expect(await codeOf(arrive({ code: back.code }, browserSecret)), "none").toBe("token_invalid");
  await arrive(back, browserSecret);
  expect(await codeOf(arrive(paramsOf(github.approve(url, ada)), browserSecret)), "used").toBe("token_invalid");

  const mine = await depart();
  const other = await depart();
  expect(await codeOf(arrive(paramsOf(github.approve(mine.url, ada)), other.browserSecret)), "another browser").toBe("token_invalid");
  expect(await codeOf(arrive(paramsOf(github.approve(other.url, ada)), undefined)), "no cookie").toBe("token_invalid");

  const late = await depart();
  lab.advance(10 * minute);
  expect(await codeOf(arrive(paramsOf(github.approve(late.url, ada)), late.browserSecret)), "too old").toBe("token_invalid");
});

test("somebody else's code signs nobody in: it does not fit the verifier of this way", async () => {
  const attacker = await depart();
  const stolen = paramsOf(github.approve(attacker.url, { ...ada, id: 666 }));
  const victim = await depart();
  const state = new URL(victim.url).searchParams.get("state") ?? "";
  const arrival = await lab.accounts.github.arrive({ code: stolen.code, state }, victim.browserSecret, lab.requester());
  expect(errorOf(arrival)).toBe("provider_unavailable");
  expect(arrival.session).toBeUndefined();
});

test("whoever says no at GitHub comes back with that", async () => {
  const { url, browserSecret } = await depart({ return_to: "/login" });
  const state = new URL(url).searchParams.get("state") ?? "";
  const arrival = await lab.accounts.github.arrive({ error: "access_denied", state }, browserSecret, lab.requester());
  expect(arrival.url).toMatch(/^\/login\?error=login_failed&error_description=GitHub\+says/);
});

test("an account with a confirmed address is its owner's at GitHub, too; one with an unconfirmed address is not", async () => {
  const made = await lab.person("ada@example.org");
  expect((await travel(ada)).session?.row.user_id).toBe(made.user.id);
  await lab.person("eve@example.org");
  await database.db.updateTable("user_account").set({ time_email_confirmed: null }).where("email", "=", "eve@example.org").execute();
  const eve = { ...ada, id: 8, emails: [{ email: "eve@example.org", primary: true, verified: true }] };
  expect(errorOf(await travel(eve))).toBe("email_taken");
});

test("one GitHub account belongs to one account, and one account has one", async () => {
  const made = await lab.person("first@example.org");
  const caller = await lab.callerOf(made);
  expect((await travel(ada, { connect: "1", return_to: "/settings" }, caller)).url).toBe("/settings?connected=github");
  expect((await lab.accounts.profiles.get(caller)).providers).toEqual(["github"]);
  expect((await travel(ada)).session?.row.user_id).toBe(made.user.id);
  const second = await lab.callerOf(await lab.person("second@example.org"));
  expect(errorOf(await travel(ada, { connect: "1" }, second)), "somebody's already").toBe("email_taken");
  expect(errorOf(await travel({ ...ada, id: 9 }, { connect: "1" }, caller)), "has one already").toBe("email_taken");
  await lab.accounts.profiles.disconnect(caller, "github");
  expect(await codeOf(lab.accounts.profiles.disconnect(caller, "github"))).toBe("provider_unconnected");
});

test("what ends the session in which somebody set out ends the way to connect GitHub, too", async () => {
  const made = await lab.person("ada@example.org");
  const thief = await lab.callerOf(made); // of a session that somebody else got hold of
  const { url, browserSecret } = await depart({ connect: "1" }, thief);
  const back = paramsOf(github.approve(url, { ...ada, id: 666 }));
  await lab.accounts.passwordChanges.askReset("ada@example.org", lab.requester());
  await lab.accounts.mails.sendDue();
  await lab.accounts.passwordChanges.reset(lab.mailer.tokenTo("ada@example.org"), "a new password", lab.requester());
  expect(errorOf(await lab.accounts.github.arrive(back, browserSecret, lab.requester()))).toBe("login_failed");
  expect(await database.db.selectFrom("user_identity").selectAll().execute()).toEqual([]);
});

test("an address with capitals of another script is not that of somebody whose letters they become", async () => {
  await lab.person("kim@example.org");
  const kelvin = { ...ada, id: 99, emails: [{ email: "\u212Aim@example.org", primary: true, verified: true }] };
  expect("\u212A".toLowerCase()).toBe("k");
  expect(errorOf(await travel(kelvin))).toBe("login_failed");
});

test("whoever signs in with GitHub only cannot disconnect it before they have a password", async () => {
  const { session } = await travel(ada);
  const user = (await users())[0];
  const caller = await lab.callerOf({ user: user as never, teamId: null, session: session as never });
  expect(await codeOf(lab.accounts.profiles.disconnect(caller, "github"))).toBe("last_login_method");
  await lab.accounts.passwordChanges.change(caller, { new_password: goodPassword });
  await lab.accounts.profiles.disconnect(caller, "github");
  await lab.accounts.logins.login(loginBodySchema.parse({ email: "ada@example.org", password: goodPassword }), lab.requester());
});

test("a program gets a code instead of a cookie, and its session with the verifier, once, within a minute", async () => {
  const verifier = "v".repeat(43);
  const challenge = createHash("sha256").update(verifier).digest("base64url");
  const codeFrom = async () => {
    const arrival = await travel(ada, { return_to: "http://127.0.0.1:9999/done?a=1", challenge });
    expect(arrival.session).toBeUndefined();
    expect(arrival.url).toMatch(/^http:\/\/127\.0\.0\.1:9999\/done\?a=1&code=[0-9a-f]{64}$/);
    return new URL(arrival.url).searchParams.get("code") ?? "";
  };
  const exchange = (code: string, given = verifier) => lab.accounts.github.exchange(code, given, lab.requester());
  const code = await codeFrom();
  const signIn = await exchange(code);
  expect(await lab.isSignedIn(signIn)).toBe(true);
  expect(await codeOf(exchange(code)), "again").toBe("token_invalid");
  expect(await codeOf(exchange(await codeFrom(), "w".repeat(43))), "another program").toBe("token_invalid");
  const late = await codeFrom();
  lab.advance(1 * minute);
  expect(await codeOf(exchange(late)), "too late").toBe("token_invalid");
});

test("signing up with GitHub needs an invitation where signing up does", async () => {
  const { url: githubUrl, clientId: githubClientId, clientSecret: githubClientSecret } = github;
  lab[Symbol.dispose]();
  lab = new AccountsLab(database.db, { githubUrl, githubClientId, githubClientSecret });
  const root = await lab.callerOf(await lab.person("root@example.org"));
  expect(errorOf(await travel(ada))).toBe("signup_closed");
  await lab.accounts.members.invite(root, "default", { email: "ada@example.org" });
  await lab.accounts.mails.sendDue();
  const invitation = lab.mailer.tokenTo("ada@example.org");
  expect(
    errorOf(await travel({ ...ada, id: 70, emails: [{ email: "eve@example.org", primary: true, verified: true }] }, { invitation })),
  ).toBe("token_invalid");
  const { session } = await travel(ada, { invitation });
  expect(session?.row.team_id).toBe("default");
});

test("a deactivated user does not get in with GitHub either", async () => {
  const root = await lab.callerOf(await lab.person("root@example.org"));
  const { session } = await travel(ada);
  await lab.accounts.administration.deactivate(root, session?.row.user_id ?? "");
  expect(errorOf(await travel(ada))).toBe("user_deactivated");
});

test.each([
  ["fails", (_path: string, response: { writeHead(status: number): { end(): void } }) => response.writeHead(500).end()],
  ["is no JSON", (_path: string, response: { end(text: string): void }) => response.end("<html>")],
  ["is another thing", (_path: string, response: { end(text: string): void }) => response.end("[1]")],
])("an answer of GitHub that %s is no sign-in", async (_what, answer) => {
  for (const path of ["/login/oauth/access_token", "/api/v3/user", "/api/v3/user/emails"]) {
    github.fault = (asked, response) => {
      if (asked !== path) return false;
      answer(asked, response);
      return true;
    };
    expect(errorOf(await travel(ada)), path).toBe("provider_unavailable");
  }
  expect(await users()).toEqual([]);
});

test.each([
  "https://evil.example/",
  "//evil.example/",
  "/\\evil.example",
  "/\t/evil.example",
  "/.//evil.example/",
  "/a/..//evil.example/",
  "/%2e//evil.example/",
  "http://127.0.0.1.evil.example:80/",
  "http://user@127.0.0.1:80/",
  "http://localhost:99/",
  "https://127.0.0.1:99/",
  "javascript:alert(1)",
  "data:text/html,x",
  "evil",
  "",
])("one is never sent to %j", (address) => {
  for (const hasChallenge of [true, false]) {
    let url: string | undefined;
    try {
      ({ url } = parseReturnAddress(address, "https://roost.example.org", hasChallenge));
    } catch {
      continue;
    }
    expect(new URL(url, "https://roost.example.org").origin, url).toBe("https://roost.example.org");
    expect(url).not.toMatch(/^[/\\]{2}/);
  }
});

test("a program needs a challenge", () => {
  expect(() => parseReturnAddress("http://127.0.0.1:4000/x", "https://roost.example.org", false)).toThrow(/challenge/);
  expect(parseReturnAddress("http://[::1]:4000/x", "https://roost.example.org", true)).toEqual({
    kind: "program",
    url: "http://[::1]:4000/x",
  });
  expect(parseReturnAddress("/a/../b?c", "https://roost.example.org", false)).toEqual({ kind: "page", url: "/b?c" });
});

test("where GitHub is not set up, nobody is sent there", async () => {
  using without = new AccountsLab(database.db);
  expect(without.accounts.github.isAvailable).toBe(false);
  expect(await codeOf(without.accounts.github.depart(githubQuerySchema.parse({}), undefined, without.requester()))).toBe(
    "provider_unavailable",
  );
});
