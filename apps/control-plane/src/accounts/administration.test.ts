import { adminPageQuerySchema, teamQuotaSchema } from "@roost/contract";
import { beforeEach, expect, test } from "vitest";

import { verifyChain } from "../audit/verify-chain.ts";
import { TeamRequests } from "../teams/team-requests.ts";
import type { AccountsLab } from "../testing/accounts-lab.ts";
import { codeOf } from "../testing/code-of.ts";
import { eachAccountsLab } from "../testing/each-accounts-lab.ts";
import type { SessionCaller } from "./session-authenticator.ts";

let lab: AccountsLab;
eachAccountsLab((made) => void (lab = made), { signup: "open" });

let root: SessionCaller;
beforeEach(async () => {
  root = await lab.callerOf(await lab.person("root@example.org"));
});
const page = (query: object = {}) => adminPageQuerySchema.parse(query);

test("users and teams are listed page by page, newest first, none twice", async () => {
  for (let count = 0; count < 5; count += 1) {
    lab.advance(count % 2); // some at the same moment
    await lab.person(`user${count}@example.org`);
  }
  const seen: string[] = [];
  let cursor: string | undefined;
  do {
    const { users, next_cursor } = await lab.accounts.administration.listUsers(
      page({ limit: 2, ...(cursor === undefined ? {} : { cursor }) }),
    );
    expect(users.length).toBeLessThanOrEqual(2);
    seen.push(...users.map((user) => user.email));
    cursor = next_cursor ?? undefined;
  } while (cursor !== undefined);
  expect(new Set(seen).size).toBe(6);
  expect(seen).toHaveLength(6);
  expect(seen.at(-1)).toBe("root@example.org");
  const { teams } = await lab.accounts.administration.listTeams(page());
  expect(teams).toHaveLength(6);
  expect(teams.find((team) => team.id === "default")).toMatchObject({ member_count: 1, owners: ["root@example.org"], sandbox_count: 0 });
});

test.each(["x", "", "AAAA", Buffer.from("zz_' OR 1=1").toString("base64url"), Buffer.from("1_\0").toString("base64url")])(
  "the cursor %j is refused",
  async (cursor) => {
    expect(await codeOf(lab.accounts.administration.listUsers(page({ cursor })))).toBe("request_invalid");
  },
);

test("the last admin stays one, and cannot be locked out; a deactivated admin is none", async () => {
  const { administration } = lab.accounts;
  const bob = await lab.person("bob@example.org");
  expect(await codeOf(administration.setAdmin(root, root.actor.id, false))).toBe("last_admin");
  expect(await codeOf(administration.deactivate(root, root.actor.id))).toBe("last_admin");
  expect(await administration.setAdmin(root, bob.user.id, true)).toMatchObject({ is_admin: true });
  expect((await lab.callerOf(bob)).isAdmin).toBe(true);
  await administration.deactivate(root, bob.user.id);
  expect(await codeOf(administration.setAdmin(root, root.actor.id, false)), "the other one cannot sign in").toBe("last_admin");
  await administration.activate(root, bob.user.id);
  expect(await administration.setAdmin(root, root.actor.id, false)).toMatchObject({ is_admin: false });
});

test("who is deactivated is out at once, with all keys they made", async () => {
  const bob = await lab.person("bob@example.org");
  const { key } = await lab.apiKeys.create(await lab.callerOf(bob), { name: "k", scopes: null, expiresInSec: null });
  expect(await lab.accounts.administration.deactivate(root, bob.user.id)).toMatchObject({ is_active: false });
  expect(await lab.isSignedIn(bob)).toBe(false);
  expect(await codeOf(lab.apiKeys.check(key))).toBe("api_key_invalid");
  await lab.accounts.administration.activate(root, bob.user.id);
  expect(await codeOf(lab.apiKeys.check(key)), "stays revoked").toBe("api_key_invalid");
});

test("an unknown user and an unknown team are told", async () => {
  const unknown = `u${"0".repeat(20)}`;
  expect(await codeOf(lab.accounts.administration.deactivate(root, unknown))).toBe("user_not_found");
  expect(await codeOf(lab.accounts.administration.setAdmin(root, unknown, true))).toBe("user_not_found");
  expect(await codeOf(lab.accounts.administration.setQuota(root, `g${"0".repeat(20)}`, teamQuotaSchema.parse({})))).toBe("team_not_found");
});

test("a team's requests are counted against its quota, and nobody else's", async () => {
  const requests = new TeamRequests(lab.db);
  const bob = await lab.person("bob@example.org");
  const teamId = bob.teamId ?? "";
  await lab.accounts.administration.setQuota(root, teamId, teamQuotaSchema.parse({ requests_per_minute: 3 }));
  const codes = [];
  for (let count = 0; count < 5; count += 1) codes.push(await codeOf(requests.count(teamId)));
  expect(codes).toEqual(["none", "none", "none", "rate_limited", "rate_limited"]);
  expect(await codeOf(requests.count("default"))).toBe("none");
  await expect(requests.count(teamId)).rejects.toMatchObject({ retryAfterSec: expect.any(Number) });
});

test("an account is deleted by its owner, with nothing of the person left; not that of the last admin or a team's owner", async () => {
  const { profiles } = lab.accounts;
  expect(await codeOf(profiles.delete(root, "root@example.org"))).toBe("last_admin");
  const bob = await lab.member(root, "bob@example.org");
  const caller = await lab.callerOf(bob);
  expect(await codeOf(profiles.delete(caller, "somebody@example.org"))).toBe("request_invalid");
  await profiles.delete(caller, "Bob@example.org");
  expect(await lab.isSignedIn(bob)).toBe(false);
  expect(JSON.stringify(await lab.db.selectFrom("user_account").selectAll().where("id", "=", bob.user.id).execute())).not.toContain("bob");
  const again = await lab.person("bob@example.org");
  expect(again.user.id).not.toBe(bob.user.id);
  expect(await codeOf(profiles.delete(await lab.callerOf(again), "bob@example.org")), "owns a team").toBe("last_owner");
});

test("keys that go with their maker are in the log of each team that they were of", async () => {
  const bob = await lab.member(root, "bob@example.org", "admin");
  const own = await lab.accounts.members.createTeam(await lab.callerOf(bob), "Bob's");
  const made: string[] = [];
  for (const teamId of ["default", own.id]) {
    const { row } = await lab.apiKeys.create(await lab.callerOf(bob, teamId), { name: "k", scopes: null, expiresInSec: null });
    made.push(`${teamId} ${row.id} ${bob.user.id}`);
  }
  await lab.accounts.administration.deactivate(root, bob.user.id);
  const entries = await lab.db
    .selectFrom("audit_entry")
    .select(["chain", "resource_id", "detail"])
    .where("action", "=", "key.revoke")
    .where("resource_kind", "=", "api_key")
    .execute();
  const recorded = entries.map((entry) => `${entry.chain} ${entry.resource_id} ${entry.detail["made_by"]}`);
  for (const line of made) expect(recorded).toContain(line);
  for (const chain of ["default", own.id, "platform"]) {
    expect(await verifyChain(lab.db, chain, { after: 0, entriesMax: 1_000 }), chain).toMatchObject({ is_intact: true, is_complete: true });
  }
});
