import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { newToken, type Me, type SignedIn } from "@roost/contract";
import { FakeError } from "@roost/sdk/testing";
import { afterEach, beforeEach, expect, test } from "vitest";

import { TestCli } from "../testing/test-cli.ts";

let cli: TestCli;
beforeEach(async () => {
  cli = await TestCli.start();
  Object.assign(cli.api.handlers.http, {
    login: ({ body }: { body: { email: string; password: string } }) => {
      if (body.password !== "right") throw new FakeError("login_failed", "the e-mail address or the password is wrong");
      return signedIn(body.email);
    },
    logout: () => undefined,
    getMe: () => me,
  });
});
afterEach(async () => cli[Symbol.asyncDispose]());

const now = "2026-02-03T04:05:06.789Z";
const userId = `u${"a".repeat(20)}`;
const teamId = `g${"b".repeat(20)}`;
const userOf = (email: string) => ({ id: userId, email, name: "Ada", is_admin: false, created_at: now });
const signedIn = (email: string): SignedIn => ({ user: userOf(email), team_id: teamId, token: cli.api.sessionToken, expires_at: now });
const me: Me = {
  actor: { kind: "user", id: userId, name: "Ada" },
  user: userOf("ada@example.org"),
  has_password: true,
  providers: [],
  team_id: teamId,
  role: "owner",
  scopes: ["sandboxes:read", "team:write"],
  is_admin: false,
  teams: [{ id: teamId, name: "Research", slug: "research", role: "owner" }],
};

/** Without the key that tests otherwise have. */
const person = () => ({ ROOST_API_KEY: "", ROOST_DIR: "", HOME: cli.folder, XDG_CONFIG_HOME: "" });
const run = (args: string[], input = "", more: Record<string, string> = {}) =>
  cli.run(args, { input, environment: { ...person(), ...more } });
const login = () => run(["login", "--email", "ada@example.org", "--password-stdin"], "right\n");

test("who signs in is acted for, until they sign out; the session is readable by them only", async () => {
  const failed = await run(["login", "--email", "ada@example.org", "--password-stdin"], "wrong\n");
  expect(failed.exitCode).toBe(1);
  expect(failed.stderr).toContain("reset-password");

  expect(await login()).toMatchObject({ exitCode: 0 });
  const path = join(cli.folder, ".config", "roost", "session.json");
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect(await readFile(path, "utf8")).not.toContain("right");
  const whoami = await run(["whoami"], "", { ROOST_URL: "" });
  expect(whoami.stdout.toString()).toContain("Ada <ada@example.org>");
  expect(whoami.stdout.toString()).toContain("Research");

  expect(await run(["logout"], "", { ROOST_URL: "" })).toMatchObject({ exitCode: 0 });
  await expect(stat(path)).rejects.toThrow("ENOENT");
  expect(cli.api.seen.at(-1)).toBe("POST /v1/auth/logout");
  expect((await run(["whoami"])).exitCode).toBe(1);
});

test("a session's token is sent to no other platform than its own, and a key that is given goes before it", async () => {
  await login();
  const elsewhere = await run(["whoami", "--url", "http://127.0.0.1:1"]);
  expect(elsewhere.exitCode).toBe(1);
  expect(elsewhere.stderr).toContain("no API key for http://127.0.0.1:1");
  const withKey = await run(["whoami"], "", { ROOST_API_KEY: cli.api.apiKey });
  expect(withKey.exitCode).toBe(0);
  const wrongKey = await run(["whoami"], "", { ROOST_API_KEY: `roost_${"0".repeat(40)}` });
  expect(wrongKey.stderr).toContain("API key");
});

test("the session goes also when the platform does not know it any more", async () => {
  await login();
  cli.api.handlers.http.logout = () => {
    throw new FakeError("api_key_invalid", "this session is over");
  };
  expect(await run(["logout"])).toMatchObject({ exitCode: 0 });
  expect((await run(["logout"])).stderr).toContain("nobody is signed in");
});

test("a file that is no session says what to do", async () => {
  await login();
  await writeFile(join(cli.folder, ".config", "roost", "session.json"), "{}");
  const failed = await run(["whoami"]);
  expect(failed.exitCode).toBe(1);
  expect(failed.stderr).toContain("roost login");
});

test("without a terminal, nobody is asked", async () => {
  const noEmail = await run(["login"]);
  expect(noEmail).toMatchObject({ exitCode: 2 });
  expect(noEmail.stderr).toContain("--email");
  expect((await run(["login", "--email", "a@example.org"])).stderr).toContain("--password-stdin");
});

test("with GitHub, the browser comes back with a code, which is exchanged with the verifier", async () => {
  let verifier = "";
  cli.api.handlers.http.exchangeCode = ({ body }) => {
    verifier = (body as { verifier: string }).verifier;
    return signedIn("ada@example.org");
  };
  let visited: Promise<unknown> | undefined;
  const code = newToken();
  const result = await cli.run(["login", "--github"], {
    environment: person(),
    onStdout: (text) => {
      const page = new URL(text.trim());
      expect(page.pathname).toBe("/v1/auth/github");
      const back = new URL(page.searchParams.get("return_to") ?? "");
      expect(back.hostname).toBe("127.0.0.1");
      back.searchParams.set("code", code);
      visited = fetch(new URL("/favicon.ico", back)).then(() => fetch(back));
    },
  });
  await visited;
  expect(result).toMatchObject({ exitCode: 0 });
  expect(verifier).toMatch(/^[\w-]{43,128}$/);
  expect((await run(["whoami"])).exitCode).toBe(0);
});

test("with GitHub, what went wrong there is told", async () => {
  let visited: Promise<unknown> | undefined;
  const result = await cli.run(["login", "--github"], {
    environment: person(),
    onStdout: (text) => {
      const back = new URL(new URL(text.trim()).searchParams.get("return_to") ?? "");
      back.searchParams.set("error", "signup_closed");
      back.searchParams.set("error_description", "not\u001b[31m open");
      visited = fetch(back);
    },
  });
  await visited;
  expect(result.exitCode).toBe(1);
  expect(result.stderr).toContain("open");
  expect(result.stderr).not.toContain("\u001b[31m open");
});

test("signing up says when a mail has to be answered first", async () => {
  cli.api.handlers.http.signUp = () => ({ state: "confirm", signed_in: null });
  const result = await run(
    ["account", "signup", "--email", "ada@example.org", "--name", "Ada", "--password-stdin"],
    "correct horse battery",
  );
  expect(result).toMatchObject({ exitCode: 0 });
  expect(result.stderr).toContain("a mail is on its way");
});

test("teams: listed, switched by name, people invited, listed and taken out", async () => {
  await login();
  const seen: string[] = [];
  const member = { user_id: userId, name: "Bob", email: "bob@example.org", role: "member", joined_at: now };
  const open = { id: `v${"c".repeat(20)}`, email: "carol@example.org", role: "admin", invited_by: "Ada", created_at: now, expires_at: now };
  Object.assign(cli.api.handlers.http, {
    listTeams: () => ({ teams: [{ id: teamId, name: "Research", slug: "research", quota: {}, created_at: now, role: "owner" }] }),
    switchTeam: () => me,
    invite: ({ body }: { body: unknown }) => (seen.push(JSON.stringify(body)), open),
    listMembers: () => ({ members: [member] }),
    listInvitations: () => ({ invitations: [open] }),
    removeMember: () => void seen.push("removed"),
    revokeInvitation: () => void seen.push("revoked"),
  });
  expect((await run(["team", "ls"])).stdout.toString()).toMatch(/\*\s+g.*Research.*owner/);
  expect((await run(["team", "switch", "Research"])).stderr).toContain("acting for team Research");
  expect((await run(["team", "switch", "Other"])).exitCode).toBe(1);
  await run(["team", "invite", "--admin", "carol@example.org"]);
  expect(seen).toEqual(['{"email":"carol@example.org","role":"admin"}']);
  const members = (await run(["team", "members"])).stdout.toString();
  expect(members).toContain("bob@example.org");
  expect(members).toContain("(invited)");
  expect((await run(["team", "rm-member", "bob@example.org", "Carol@example.org"])).exitCode).toBe(0);
  expect(seen.slice(1)).toEqual(["removed", "revoked"]);
  expect((await run(["team", "rm-member", "eve@example.org"])).exitCode).toBe(1);
});

test("teams: renamed, roles given, handed over, left, deleted; only the one that commands act for", async () => {
  await login();
  const seen: string[] = [];
  const team = { id: teamId, name: "Research", slug: "research", quota: {}, created_at: now, role: "owner" };
  const other = { ...team, id: `g${"d".repeat(20)}`, name: "Other", slug: "other" };
  const member = { user_id: userId, name: "Bob", email: "bob@example.org", role: "admin", joined_at: now };
  const note = (what: string) => (call: { readonly body: unknown; readonly parameters: Record<string, string> }) => {
    seen.push(`${what} ${call.parameters["user"] ?? call.parameters["team"] ?? ""} ${JSON.stringify(call.body)}`);
  };
  Object.assign(cli.api.handlers.http, {
    listTeams: () => ({ teams: [team, other] }),
    listMembers: () => ({ members: [member] }),
    updateTeam: (call: never) => (note("rename")(call), { ...team, name: "New" }),
    setMemberRole: (call: never) => (note("role")(call), member),
    transferTeam: (call: never) => (note("transfer")(call), { members: [member] }),
    leaveTeam: note("leave"),
    deleteTeam: note("delete"),
  });
  expect((await run(["team", "rename", "New"])).stderr).toContain("New");
  expect((await run(["team", "role", "Bob@example.org", "admin"])).stderr).toContain("bob@example.org is admin");
  expect(JSON.parse((await run(["team", "transfer", userId, "--json"])).stdout.toString())).toEqual({ members: [member] });
  expect((await run(["team", "leave", "research"])).exitCode).toBe(0);
  expect((await run(["team", "rm", "Research"])).exitCode).toBe(0);
  expect(seen).toEqual([
    `rename ${teamId} {"name":"New"}`,
    `role ${userId} {"role":"admin"}`,
    `transfer ${teamId} {"user_id":"${userId}"}`,
    `leave ${teamId} undefined`,
    `delete ${teamId} undefined`,
  ]);
  for (const command of ["leave", "rm"]) {
    const elsewhere = await run(["team", command, "other"]);
    expect(elsewhere.exitCode).toBe(1);
    expect(elsewhere.stderr).toContain(`roost team switch ${other.id}`);
  }
  expect((await run(["team", "role", "eve@example.org", "admin"])).exitCode).toBe(1);
  expect((await run(["team", "role", "bob@example.org", "owner"])).exitCode).toBe(2);
  expect(seen).toHaveLength(5);
});

test("signing up on the platform's own machine finds the set-up code; elsewhere it is given", async () => {
  const codes: unknown[] = [];
  cli.api.handlers.http.signUp = ({ body }) => {
    codes.push((body as { setup_code?: string }).setup_code);
    return { state: "confirm", signed_in: null };
  };
  const signUp = (args: string[], more: Record<string, string>) =>
    run(["account", "signup", "--email", "ada@example.org", "--name", "Ada", "--password-stdin", ...args], "correct horse battery", more);
  const dir = join(cli.folder, "platform");
  await mkdir(dir);
  const endpoint = { formatVersion: 1, url: cli.api.url, version: "0", pid: 1, startTicks: "0", startedAt: now };
  await writeFile(join(dir, "endpoint.json"), JSON.stringify(endpoint));
  await signUp([], { ROOST_DIR: dir });
  await writeFile(join(dir, "setup-code"), `${"ab".repeat(16)}\n`);
  await signUp([], { ROOST_DIR: dir });
  await signUp(["--setup-code", "cd".repeat(16)], { ROOST_DIR: dir });
  await writeFile(join(dir, "endpoint.json"), JSON.stringify({ ...endpoint, url: "http://127.0.0.1:1" }));
  await signUp([], { ROOST_DIR: dir });
  expect(codes, "never to another platform").toEqual([undefined, "ab".repeat(16), "cd".repeat(16), undefined]);
});
