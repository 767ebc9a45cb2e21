import { adminOnlyScopes, inviteBodySchema } from "@roost/contract";
import { hour } from "@roost/kit";
import { beforeEach, expect, test } from "vitest";

import type { SessionCaller } from "../accounts/session-authenticator.ts";
import type { SignIn } from "../accounts/sign-ups.ts";
import type { AccountsLab } from "../testing/accounts-lab.ts";
import { keyCaller } from "../testing/callers.ts";
import { codeOf } from "../testing/code-of.ts";
import { eachAccountsLab } from "../testing/each-accounts-lab.ts";
import { newSlug } from "./slug.ts";

let lab: AccountsLab;
eachAccountsLab((made) => void (lab = made), { signup: "open" });

let owner: SignIn;
let ada: SessionCaller;
beforeEach(async () => {
  owner = await lab.person("ada@example.org");
  ada = await lab.callerOf(owner);
});

const invite = async (email: string, role: "member" | "admin" = "member") => {
  const made = await lab.accounts.members.invite(ada, "default", inviteBodySchema.parse({ email, role }));
  await lab.accounts.mails.sendDue();
  return { made, token: lab.mailer.tokenTo(email) };
};

test("an invitation is accepted once, by the invited address, by who has its token", async () => {
  const bob = await lab.callerOf(await lab.person("bob@example.org"));
  const eve = await lab.callerOf(await lab.person("eve@example.org"));
  const { token } = await invite("bob@example.org", "admin");
  expect(await codeOf(lab.accounts.members.accept(eve, token)), "another address").toBe("token_invalid");
  expect(await codeOf(lab.accounts.members.accept(bob, "0".repeat(64))), "another token").toBe("token_invalid");
  expect(await lab.accounts.members.accept(bob, token)).toMatchObject({ id: "default", role: "admin" });
  expect(await codeOf(lab.accounts.members.accept(bob, token)), "again").toBe("token_invalid");
  expect((await lab.accounts.members.list(ada, "default")).map(({ email, role }) => `${email} ${role}`)).toEqual([
    "ada@example.org owner",
    "bob@example.org admin",
  ]);
});

test("of many acceptances at the same time, one works", async () => {
  const bob = await lab.callerOf(await lab.person("bob@example.org"));
  const { token } = await invite("bob@example.org");
  const codes = await Promise.all(Array.from({ length: 5 }, () => codeOf(lab.accounts.members.accept(bob, token))));
  expect(codes.sort()).toEqual(["none", ...Array.from({ length: 4 }, () => "token_invalid")]);
});

test("an invitation ends after a week, when it is taken back, and when a newer one is sent", async () => {
  const bob = await lab.callerOf(await lab.person("bob@example.org"));
  const first = await invite("bob@example.org");
  const second = await invite("bob@example.org");
  expect(await codeOf(lab.accounts.members.accept(bob, first.token))).toBe("token_invalid");
  expect((await lab.accounts.members.listInvitations(ada, "default")).map(({ id }) => id)).toEqual([second.made.id]);
  await lab.accounts.members.revokeInvitation(ada, "default", second.made.id);
  expect(await codeOf(lab.accounts.members.accept(bob, second.token))).toBe("token_invalid");
  expect(await codeOf(lab.accounts.members.revokeInvitation(ada, "default", second.made.id))).toBe("invitation_not_found");
  const third = await invite("bob@example.org");
  lab.advance(7 * 24 * hour);
  expect(await codeOf(lab.accounts.members.accept(bob, third.token))).toBe("token_invalid");
});

test("an invitation lets its address sign up where that needs one, and no other", async () => {
  const { token } = await invite("new@example.org");
  await expect(lab.person("eve@example.org", { invitation: token })).rejects.toMatchObject({ code: "token_invalid" });
  const made = await lab.person("new@example.org", { invitation: token });
  expect(made.teamId).toBe("default");
  expect(made.user.time_email_confirmed).not.toBeNull();
});

test("tokens of invitations are not kept in clear", async () => {
  const { token } = await invite("bob@example.org");
  const rows = await lab.db.selectFrom("invitation").selectAll().execute();
  expect(rows).toHaveLength(1);
  expect(Buffer.from(rows[0]?.token_hash ?? []).toString("hex")).not.toBe(token);
  expect(JSON.stringify(rows)).not.toContain(token);
});

test("whoever is in the team already is not invited again", async () => {
  expect(await codeOf(invite("ada@example.org"))).toBe("member_exists");
});

test("a name of a team cannot write a mail of its own", async () => {
  await lab.accounts.members.renameTeam(ada, "default", "x\r\nBcc: all@example.org <b>see http://evil.example/now</b>");
  await invite("bob@example.org");
  const [mail] = lab.mailer.to("bob@example.org");
  expect(mail?.subject).not.toMatch(/[\r\n]/);
  expect(mail?.html).not.toContain("<b>");
  expect(mail?.text).not.toContain("http://evil.example");
});

test("roles are changed by admins; an owner stays one until they hand the team over", async () => {
  const bob = await lab.member(ada, "bob@example.org");
  expect(await lab.accounts.members.setRole(ada, "default", bob.user.id, "admin")).toMatchObject({ role: "admin" });
  const bobs = await lab.callerOf(bob);
  expect(bobs.scopes.has("team:write"), "at once").toBe(true);
  expect(await codeOf(lab.accounts.members.setRole(bobs, "default", owner.user.id, "member"))).toBe("owner_only");
  expect(await codeOf(lab.accounts.members.remove(bobs, "default", owner.user.id))).toBe("last_owner");
  expect(await codeOf(lab.accounts.members.transfer(bobs, "default", bob.user.id))).toBe("owner_only");
  expect(await codeOf(lab.accounts.members.deleteTeam(bobs, "default"))).toBe("owner_only");

  const after = await lab.accounts.members.transfer(ada, "default", bob.user.id);
  expect(after.map(({ email, role }) => `${email} ${role}`)).toEqual(["ada@example.org admin", "bob@example.org owner"]);
  expect(await codeOf(lab.accounts.members.transfer(ada, "default", owner.user.id)), "who was the owner").toBe("owner_only");
  expect(await lab.callerOf(owner)).toMatchObject({ role: "admin" });
});

test("the last owner cannot leave; whoever leaves or is taken out is out at once, with the keys they made", async () => {
  expect(await codeOf(lab.accounts.members.remove(ada, "default", owner.user.id))).toBe("last_owner");
  const bob = await lab.member(ada, "bob@example.org", "admin");
  const bobs = await lab.callerOf(bob);
  const { key } = await lab.apiKeys.create(bobs, { name: "bob's", scopes: null, expiresInSec: null });
  await lab.apiKeys.check(key);
  await lab.accounts.members.invite(bobs, "default", { email: "bob@other.example.org", role: "admin" });
  await lab.accounts.members.invite(ada, "default", { email: "carol@example.org" });
  await lab.accounts.members.remove(ada, "default", bob.user.id);
  expect(await codeOf(lab.apiKeys.check(key))).toBe("api_key_invalid");
  const open = await lab.accounts.members.listInvitations(ada, "default");
  expect(
    open.map(({ email }) => email),
    "not those who would let them in again",
  ).toEqual(["carol@example.org"]);
  const left = await lab.callerOf(bob);
  expect(left).toMatchObject({ role: null, teamId: "" });
  expect([...left.scopes]).toEqual([]);
  expect(await codeOf(lab.callerOf(bob, "default"))).toBe("team_not_found");
  expect(await codeOf(lab.accounts.members.accept(left, "0".repeat(64)))).toBe("token_invalid");
});

test("what is not the caller's team is not found", async () => {
  const eve = await lab.callerOf(await lab.person("eve@example.org"));
  const { members: service } = lab.accounts;
  for (const attempt of [
    service.getTeam(eve, "default"),
    service.list(eve, "default"),
    service.renameTeam(eve, "default", "mine"),
    service.deleteTeam(eve, "default"),
    service.transfer(eve, "default", eve.actor.id),
    service.setRole(eve, "default", owner.user.id, "member"),
    service.remove(eve, "default", owner.user.id),
    service.invite(eve, "default", { email: "x@example.org" }),
    service.listInvitations(eve, "default"),
    service.revokeInvitation(eve, "default", "v0"),
  ]) {
    expect(await codeOf(attempt)).toBe("team_not_found");
  }
  expect(await codeOf(lab.callerOf(owner, eve.teamId)), "named by a header").toBe("team_not_found");
});

test("a member of another team cannot be made anything here", async () => {
  const eve = await lab.person("eve@example.org");
  expect(await codeOf(lab.accounts.members.setRole(ada, "default", eve.user.id, "admin"))).toBe("member_not_found");
  expect(await codeOf(lab.accounts.members.transfer(ada, "default", eve.user.id))).toBe("member_not_found");
});

test("a team is deleted when it has no sandboxes; its keys and members are gone, its slug stays taken", async () => {
  const team = await lab.accounts.members.createTeam(ada, "Second");
  const caller = await lab.callerOf(owner, team.id);
  const { key } = await lab.apiKeys.create(caller, { name: "k", scopes: null, expiresInSec: null });
  await lab.accounts.members.deleteTeam(caller, team.id);
  expect(await codeOf(lab.apiKeys.check(key))).toBe("api_key_invalid");
  expect(await codeOf(lab.callerOf(owner, team.id))).toBe("team_not_found");
  expect((await lab.accounts.members.listTeams(ada)).map(({ id }) => id)).toEqual(["default"]);
});

test("the first team stays, whoever owns it: the platform's own key acts for it", async () => {
  expect(await codeOf(lab.accounts.members.deleteTeam(ada, "default"))).toBe("team_in_use");
  await lab.apiKeys.createForPlatform("this machine");
});

test("an API key makes nobody an admin who may then more than it may itself", async () => {
  const bob = await lab.member(ada, "bob@example.org");
  const few = keyCaller(["team:write"]);
  expect(await codeOf(lab.accounts.members.setRole(few, "default", bob.user.id, "admin"))).toBe("scope_missing");
  expect(await codeOf(lab.accounts.members.invite(few, "default", { email: "eve@example.org", role: "admin" }))).toBe("scope_missing");
  expect(await lab.accounts.members.invite(few, "default", { email: "carl@example.org" })).toMatchObject({ role: "member" });
  const all = keyCaller(adminOnlyScopes);
  expect(await lab.accounts.members.setRole(all, "default", bob.user.id, "admin")).toMatchObject({ role: "admin" });
});

test("somebody whose account is gone makes and joins no team", async () => {
  const bob = await lab.callerOf(await lab.person("bob@example.org"));
  const { token } = await invite("bob@example.org");
  const { members, profiles } = lab.accounts;
  await members.deleteTeam(bob, bob.teamId);
  await profiles.delete(bob, "bob@example.org");
  expect(await codeOf(members.createTeam(bob, "Ghost")), "a request that was on its way").toBe("api_key_invalid");
  expect(await codeOf(members.accept(bob, token))).toBe("api_key_invalid");
});

test("what happens to a team is told, with who did it", async () => {
  const bob = await lab.member(ada, "bob@example.org");
  await lab.accounts.members.setRole(ada, "default", bob.user.id, "admin");
  await lab.accounts.members.remove(ada, "default", bob.user.id);
  const rows = await lab.db
    .selectFrom("event")
    .select(["kind", "actor", "detail"])
    .where("team_id", "=", "default")
    .orderBy("number")
    .execute();
  expect(rows.map((row) => `${row.kind} ${row.actor?.name} ${row.detail["user_id"] === bob.user.id ? "bob" : "other"}`)).toEqual([
    "team.member_added ada other",
    "team.member_added bob bob",
    "team.member_changed ada bob",
    "team.member_removed ada bob",
  ]);
});

test("slugs are made of names, and do not collide", () => {
  expect(newSlug("Ada's Läb!")).toMatch(/^ada-s-la-b-[0-9a-f]{8}$/);
  expect(newSlug("日本")).toMatch(/^team-[0-9a-f]{8}$/);
  expect(newSlug("x")).not.toBe(newSlug("x"));
});
