import { readFile } from "node:fs/promises";

import { expect, test } from "vitest";

import { platformScopes, scopeNames, scopesOfRole } from "./scopes.ts";

test("docs/api-keys.md has every scope, and who has it", async () => {
  const page = await readFile(new URL("../../../docs/api-keys.md", import.meta.url), "utf8");
  const rows = [...page.matchAll(/^\| `([a-z:]+)` \|.*\| (yes|no) \| (yes|no)(: only admins of the platform)? \|$/gm)];
  const said = rows.map(([, scope, member, admin, ofPlatform]) => ({ scope, member, admin, ofPlatform: ofPlatform !== undefined }));
  const yes = (is: boolean) => (is ? "yes" : "no");
  const meant = scopeNames.map((scope) => ({
    scope,
    member: yes(scopesOfRole.member.has(scope)),
    admin: yes(scopesOfRole.admin.has(scope)),
    ofPlatform: platformScopes.has(scope),
  }));
  expect(said.toSorted((a, b) => ((a.scope ?? "") < (b.scope ?? "") ? -1 : 1))).toEqual(
    meant.toSorted((a, b) => (a.scope < b.scope ? -1 : 1)),
  );
});

test("roles have more the higher they are, and none has what is the platform's", () => {
  const { owner, admin, member } = scopesOfRole;
  for (const scope of member) expect(admin.has(scope)).toBe(true);
  for (const scope of admin) expect(owner.has(scope)).toBe(true);
  for (const scope of platformScopes) expect(owner.has(scope)).toBe(false);
});
