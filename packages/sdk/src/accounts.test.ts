import { newToken } from "@roost/contract";
import { afterEach, beforeEach, expect, test } from "vitest";

import { RoostClient } from "./client.ts";
import { SignIn } from "./sign-in.ts";
import { FakeApi } from "./testing/fake-api.ts";

let api: FakeApi;
let signIn: SignIn;
beforeEach(async () => {
  api = await FakeApi.start();
  signIn = new SignIn({ url: api.url });
});
afterEach(async () => api[Symbol.asyncDispose]());

const signedIn = () => new RoostClient({ url: api.url, sessionToken: api.sessionToken });

test("from a password to a client that acts for a person", async () => {
  const { email } = api.accounts.user;
  await expect(signIn.login({ email, password: "wrong" })).rejects.toMatchObject({ code: "login_failed", status: 401 });
  const { token } = await signIn.login({ email: email.toUpperCase(), password: api.accounts.password });
  const roost = new RoostClient({ url: api.url, sessionToken: token ?? "" });
  expect(await roost.account.get()).toMatchObject({ user: { email }, team_id: "default" });
  expect(await roost.sandboxes.listPage()).toMatchObject({ sandboxes: [] });
});

test("a client needs a key or a session, of the right form", () => {
  expect(() => new RoostClient({ url: api.url })).toThrow("apiKey or sessionToken");
  expect(() => new RoostClient({ url: api.url, sessionToken: "nonsense" })).toThrow("session_");
});

test("a session of nobody is refused", async () => {
  const stranger = new RoostClient({ url: api.url, sessionToken: `session_${newToken()}` });
  await expect(stranger.account.get()).rejects.toMatchObject({ code: "api_key_invalid" });
});

test("a session acts for the team that the client names", async () => {
  let named: unknown;
  const answer = api.handlers.http.getMe;
  api.handlers.http.getMe = (call) => {
    named = call.request.headers["x-team-id"];
    return answer?.(call);
  };
  await signedIn().account.get();
  expect(named).toBeUndefined();
  await new RoostClient({ url: api.url, sessionToken: api.sessionToken, teamId: "default" }).account.get();
  expect(named).toBe("default");
});

test("sign-up, confirmation, reset", async () => {
  const input = { email: "bob@example.org", password: "correct horse battery", name: "Bob" };
  expect(await signIn.signUp(input)).toEqual({ state: "confirm", signed_in: null });
  const token = newToken();
  await expect(signIn.confirm({ token, password: "x" })).rejects.toMatchObject({ code: "token_invalid" });
  api.accounts.tokens.add(token);
  expect((await signIn.confirm({ token, password: "x" })).token).toBe(api.sessionToken);
  await signIn.askPasswordReset("anybody@example.org");
  api.accounts.tokens.add(token);
  await signIn.resetPassword(token, "a new password");
  expect(api.accounts.password).toBe("a new password");
});

test("what is to be opened to sign in with GitHub", async () => {
  const challenge = "c".repeat(43);
  const page = new URL(signIn.githubUrl("http://127.0.0.1:4000/x?y=1", challenge));
  expect(page.pathname).toBe("/v1/auth/github");
  expect(Object.fromEntries(page.searchParams)).toEqual({ return_to: "http://127.0.0.1:4000/x?y=1", challenge });
  expect((await signIn.exchange(newToken(), "v".repeat(43))).token).toBe(api.sessionToken);
});

test("sessions, name, password", async () => {
  const { account } = signedIn();
  expect((await account.rename("Ada L")).actor.name).toBe("Ada L");
  const [own, other] = await account.sessions();
  await account.revokeSession(other?.id ?? "");
  await expect(account.revokeSession(other?.id ?? "")).rejects.toMatchObject({ code: "session_not_found" });
  await account.revokeOtherSessions();
  expect((await account.sessions()).map(({ id }) => id)).toEqual([own?.id]);
  await account.changePassword({ current_password: api.accounts.password, new_password: "a new password" });
  await account.disconnect("github");
  await expect(account.delete("nobody@example.org")).rejects.toMatchObject({ code: "request_invalid" });
  await account.logout();
});

test("teams, members, invitations", async () => {
  const { teams, account } = signedIn();
  const team = await teams.create("Research");
  expect((await account.switchTeam(team.id)).team_id).toBe(team.id);
  expect((await teams.list()).map(({ name }) => name)).toEqual(["default", "Research"]);
  expect(await teams.rename(team.id, "Lab")).toMatchObject({ id: team.id, name: "Lab" });
  const made = await teams.invite(team.id, { email: "Bob@example.org" });
  expect(made).toMatchObject({ email: "bob@example.org", role: "member" });
  expect(await teams.invitations(team.id)).toHaveLength(1);
  await teams.revokeInvitation(team.id, made.id);
  const [ada] = await teams.members(team.id);
  expect(await teams.setRole(team.id, ada?.user_id ?? "", "admin")).toMatchObject({ role: "admin" });
  expect(await teams.transfer(team.id, ada?.user_id ?? "")).toMatchObject([{ role: "owner" }]);
  await expect(teams.leave(team.id)).rejects.toMatchObject({ code: "last_owner" });
  await teams.removeMember(team.id, ada?.user_id ?? "");
  expect(await teams.members(team.id)).toEqual([]);
  await expect(teams.accept(newToken())).rejects.toMatchObject({ code: "token_invalid" });
  await teams.delete(team.id);
  await expect(teams.get(team.id)).rejects.toMatchObject({ code: "team_not_found" });
});

test("the admin area", async () => {
  const { admin } = signedIn();
  expect(await all(admin.users())).toMatchObject([{ email: "ada@example.org" }]);
  expect(await all(admin.teams())).toMatchObject([{ id: "default" }]);
  expect((await admin.setQuota("default", { sandboxes: 3 })).quota).toMatchObject({ sandboxes: 3, vcpus: null });
  const { id } = api.accounts.user;
  await expect(admin.deactivate(id)).rejects.toMatchObject({ code: "last_admin" });
  expect(await admin.activate(id)).toMatchObject({ is_active: true });
  expect(await admin.setAdmin(id, true)).toMatchObject({ is_admin: true });
});

async function all<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const found: Item[] = [];
  for await (const item of items) found.push(item);
  return found;
}
