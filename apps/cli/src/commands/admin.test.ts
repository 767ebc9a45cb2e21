import type { AdminTeam, AdminUser, TeamQuota } from "@roost/contract";
import { afterEach, beforeEach, expect, test } from "vitest";

import { TestCli, type CliResult } from "../testing/test-cli.ts";

const now = "2026-02-03T04:05:06.789Z";
const idOf = (kind: string, digit: string) => kind + digit.repeat(20);
const userOf = (digit: string, email: string, more: Partial<AdminUser> = {}): AdminUser => ({
  id: idOf("u", digit),
  email,
  name: email.split("@", 1)[0] ?? "",
  is_admin: false,
  is_active: true,
  team_count: 1,
  created_at: now,
  last_active_at: null,
  ...more,
});
const unlimited: TeamQuota = {
  sandboxes: null,
  vcpus: null,
  memory_mb: null,
  disk_mb: null,
  builds_at_once: null,
  requests_per_minute: null,
};
const teamOf = (digit: string, slug: string, quota: Partial<TeamQuota> = {}): AdminTeam => ({
  id: idOf("g", digit),
  name: "Research",
  slug,
  quota: { ...unlimited, ...quota },
  created_at: now,
  member_count: 2,
  owners: ["ada@example.org"],
  sandbox_count: 3,
});

let cli: TestCli;
let seen: string[];
beforeEach(async () => {
  cli = await TestCli.start();
  seen = [];
  const users = [userOf("a", "ada@example.org", { is_admin: true }), userOf("e", "eve\u001b[31m@example.org", { is_active: false })];
  const teams = [teamOf("1", "research-1", { sandboxes: 5, vcpus: 8 }), teamOf("2", "research-2")];
  // Two pages: what is on the second is found, too
  const pageOf = <Item>(items: readonly Item[], query: URLSearchParams) =>
    query.get("cursor") === null ? { items: items.slice(0, 1), next: "more" } : { items: items.slice(1), next: null };
  const change = (what: string) => (call: { readonly parameters: Record<string, string>; readonly body: unknown }) => {
    seen.push(`${what} ${call.parameters["user"] ?? ""} ${JSON.stringify(call.body)}`);
    return users[1];
  };
  Object.assign(cli.api.handlers.http, {
    adminListUsers: ({ query }: { query: URLSearchParams }) => {
      const { items, next } = pageOf(users, query);
      return { users: items, next_cursor: next };
    },
    adminListTeams: ({ query }: { query: URLSearchParams }) => {
      const { items, next } = pageOf(teams, query);
      return { teams: items, next_cursor: next };
    },
    adminSetQuota: ({ parameters, body }: { parameters: Record<string, string>; body: TeamQuota }) => {
      seen.push(`${parameters["team"]} ${JSON.stringify(body)}`);
      return { ...teams[0], quota: body };
    },
    adminDeactivateUser: change("deactivate"),
    adminActivateUser: change("activate"),
    adminSetAdmin: change("admin"),
  });
});
afterEach(() => cli[Symbol.asyncDispose]());
const out = ({ stdout }: CliResult) => stdout.toString("utf8");

test("users and teams are listed, all pages of them, and nothing in them is taken for a terminal's commands", async () => {
  const users = out(await cli.run(["admin", "users"]));
  expect(users).toMatch(/ada@example\.org +admin/);
  expect(users).toMatch(/suspended/);
  expect(users).not.toContain("\u001b[31m@");
  expect(out(await cli.run(["admin", "users", "-q"]))).toBe(`${idOf("u", "a")}\n${idOf("u", "e")}\n`);
  expect(JSON.parse(out(await cli.run(["admin", "users", "--json"])))).toHaveLength(2);
  const teams = out(await cli.run(["admin", "teams"]));
  expect(teams).toMatch(/research-1 +ada@example\.org +2 +3\/5 +limited/);
  expect(teams).toMatch(/research-2 +ada@example\.org +2 +3 /);
  expect(JSON.parse(out(await cli.run(["admin", "teams", "--json"])))).toHaveLength(2);
});

test("a quota is shown, and changed in what is named only", async () => {
  const shown = out(await cli.run(["admin", "quota", "research-1"]));
  expect(shown).toMatch(/sandboxes +5/);
  expect(shown).toMatch(/memory +unlimited/);
  expect(seen).toEqual([]);
  await cli.run(["admin", "quota", "research-1", "--sandboxes", "0", "--vcpus", "none", "--memory", "64g"]);
  expect(seen).toEqual([`${idOf("g", "1")} ${JSON.stringify({ ...unlimited, sandboxes: 0, memory_mb: 65_536 })}`]);
  expect(await cli.run(["admin", "quota", "Research"])).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("may be 2 teams") });
  expect(await cli.run(["admin", "quota", "nobodys"])).toMatchObject({ exitCode: 1 });
  expect(await cli.run(["admin", "quota", "research-1", "--sandboxes", "many"])).toMatchObject({ exitCode: 2 });
});

test("users are suspended, let in again, made admins and no admins, by id or address", async () => {
  expect((await cli.run(["admin", "suspend", idOf("u", "e")])).stderr).toContain("cannot sign in any more");
  await cli.run(["admin", "activate", idOf("u", "e")]);
  await cli.run(["admin", "grant", "Ada@example.org"]);
  await cli.run(["admin", "revoke", "ada@example.org"]);
  expect(seen).toEqual([
    `deactivate ${idOf("u", "e")} undefined`,
    `activate ${idOf("u", "e")} undefined`,
    `admin ${idOf("u", "a")} {"is_admin":true}`,
    `admin ${idOf("u", "a")} {"is_admin":false}`,
  ]);
  expect(await cli.run(["admin", "suspend", "nobody@example.org"])).toMatchObject({ exitCode: 1 });
});
