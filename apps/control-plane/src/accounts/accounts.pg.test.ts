import { loginBodySchema, signUpBodySchema } from "@roost/contract";
import { poll, second, silentLogger } from "@roost/kit";
import { sql } from "kysely";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";

import { openDatabase, type Database } from "../db/database.ts";
import { anonymizeUser, lockUser } from "../db/users.ts";
import { AccountsLab, FakeMailer, forgetAccounts, goodPassword } from "../testing/accounts-lab.ts";
import { codeOf } from "../testing/code-of.ts";
import { whyNoPostgres } from "../testing/postgres-binaries.ts";
import { postgresOfRun } from "../testing/postgres-of-run.ts";
import type { TestPostgres } from "../testing/postgres.ts";

/** What only several control planes on one server can show. */

const why = whyNoPostgres();

describe.skipIf(why !== undefined)(`accounts on PostgreSQL${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  let postgres: TestPostgres;
  let one: Database;
  let two: Database;
  let first: AccountsLab;
  let there: AccountsLab;
  let labs: readonly AccountsLab[] = [];
  const clock = { now: Date.now() };
  beforeAll(async () => {
    postgres = postgresOfRun();
    const url = await postgres.createDatabase();
    one = await openDatabase({ kind: "server", url }, silentLogger);
    two = await openDatabase({ kind: "server", url }, silentLogger);
  }, 120_000);
  afterAll(async () => {
    await Promise.all([one.close(), two.close()]);
    await postgres[Symbol.asyncDispose]();
  });
  const forgetLabs = () => {
    for (const lab of labs) lab[Symbol.dispose]();
  };
  afterEach(forgetLabs);
  const start = (signup: "open" | "invite", isReal = true) => {
    forgetLabs();
    first = new AccountsLab(one.db, { signup }, { clock, mailer: new FakeMailer(isReal) });
    there = new AccountsLab(two.db, { signup }, { clock, mailer: new FakeMailer(isReal) });
    labs = [first, there];
  };
  beforeEach(async () => {
    await forgetAccounts(one.db);
    start("open");
  });
  const bodyOf = (email: string) =>
    signUpBodySchema.parse({ email, password: goodPassword, name: "N", setup_code: first.accounts.setUp.code });
  const signUpMany = async (count: number) =>
    Promise.all(
      Array.from({ length: count }, (_, index) =>
        codeOf(
          (index % 2 === 0 ? first : there).accounts.signUps.signUp(bodyOf(`user${index}@example.org`), first.requester(`10.0.${index}.1`)),
        ),
      ),
    );

  test.each(["open", "invite"] as const)("of 50 who sign up at the same moment (%s), exactly one is the first", async (signup) => {
    start(signup, false);
    const codes = await signUpMany(50);
    const users = await one.db.selectFrom("user_account").selectAll().execute();
    expect(users.filter((user) => user.is_admin)).toHaveLength(1);
    const owners = await one.db.selectFrom("membership").selectAll().where("team_id", "=", "default").execute();
    expect(owners.map((row) => `${row.user_id} ${row.role}`)).toEqual([`${users.find((user) => user.is_admin)?.id} owner`]);
    expect(codes.filter((code) => code === "none")).toHaveLength(signup === "open" ? 50 : 1);
    expect(users).toHaveLength(signup === "open" ? 50 : 1);
  });

  test("of many who sign up with one address at the same moment, one has it", async () => {
    start("open", false);
    const tries = Array.from({ length: 10 }, (_, index) =>
      codeOf((index % 2 === 0 ? first : there).accounts.signUps.signUp(bodyOf("same@example.org"), first.requester(`10.0.${index}.1`))),
    );
    expect((await Promise.all(tries)).sort()).toEqual([...Array.from({ length: 9 }, () => "email_taken"), "none"]);
  });

  test("a session that is ended here ends there within a second; so do a role, a membership and an account", async () => {
    const ada = await first.person("ada@example.org");
    const root = await first.callerOf(ada);
    const bob = await first.member(root, "bob@example.org", "admin");
    const change = async (act: () => Promise<unknown>, seen: () => Promise<unknown>) => {
      const before = await seen();
      await act();
      expect(await seen(), "still remembered").toEqual(before);
      clock.now += 1 * second;
      return seen();
    };
    const roleThere = async () => (await there.callerOf(bob)).role;
    expect(await change(() => first.accounts.members.setRole(root, "default", bob.user.id, "member"), roleThere)).toBe("member");
    expect(await change(() => first.accounts.members.remove(root, "default", bob.user.id), roleThere)).toBeNull();
    expect(
      await change(
        () => first.accounts.administration.deactivate(root, bob.user.id),
        () => there.isSignedIn(bob),
      ),
    ).toBe(false);

    const login = () =>
      first.accounts.logins.login(loginBodySchema.parse({ email: "ada@example.org", password: goodPassword }), first.requester());
    const other = await login();
    expect(
      await change(
        () => first.accounts.logins.revoke(root, other.session.row.id),
        () => there.isSignedIn(other),
      ),
    ).toBe(false);
    const third = await login();
    const changed = { current_password: goodPassword, new_password: "a new password" };
    expect(
      await change(
        () => first.accounts.passwordChanges.change(root, changed),
        () => there.isSignedIn(third),
      ),
    ).toBe(false);
    expect(await there.isSignedIn(ada), "where it was changed").toBe(true);
  });

  test("two admins who take away each other's right at the same moment: one stays", async () => {
    const ada = await first.callerOf(await first.person("ada@example.org"));
    const bob = await first.person("bob@example.org");
    for (let round = 0; round < 20; round += 1) {
      await one.db.updateTable("user_account").set({ is_admin: true, time_deactivated: null }).execute();
      const { administration } = first.accounts;
      const adminThere = there.accounts.administration;
      const codes = await Promise.all([
        codeOf(administration.setAdmin(ada, bob.user.id, false)),
        codeOf(round % 2 === 0 ? adminThere.setAdmin(ada, ada.actor.id, false) : adminThere.deactivate(ada, ada.actor.id)),
      ]);
      expect(codes.sort(), `round ${round}`).toEqual(["last_admin", "none"]);
    }
  });

  test("an owner who hands the team over twice at the same moment hands it to one; there is always exactly one", async () => {
    const ada = await first.person("ada@example.org");
    const caller = await first.callerOf(ada);
    const bob = await first.member(caller, "bob@example.org");
    const carl = await first.member(caller, "carl@example.org");
    for (let round = 0; round < 10; round += 1) {
      await one.db.updateTable("membership").set({ role: "member" }).where("team_id", "=", "default").execute();
      await one.db
        .updateTable("membership")
        .set({ role: "owner" })
        .where("user_id", "=", ada.user.id)
        .where("team_id", "=", "default")
        .execute();
      const codes = await Promise.all([
        codeOf(first.accounts.members.transfer(caller, "default", bob.user.id)),
        codeOf(there.accounts.members.transfer(caller, "default", carl.user.id)),
      ]);
      expect(codes.sort()).toEqual(["none", "owner_only"]);
      const owners = await one.db
        .selectFrom("membership")
        .selectAll()
        .where("team_id", "=", "default")
        .where("role", "=", "owner")
        .execute();
      expect(owners).toHaveLength(1);
    }
  });

  test("a team is never handed to somebody who deletes their account at that moment", async () => {
    const ada = await first.callerOf(await first.person("ada@example.org"));
    const bob = await first.member(ada, "bob@example.org");
    let handed: Promise<string> | undefined;
    await two.db.transaction().execute(async (deletion) => {
      await lockUser(deletion, bob.user.id); // from here on as in a deletion, which finds that they own no team
      handed = codeOf(first.accounts.members.transfer(ada, "default", bob.user.id));
      await Promise.race([handed, poll({ what: "the wait for the user", timeoutMs: 30_000, intervalMs: 10 }, isAnybodyWaiting)]);
      await deletion.deleteFrom("membership").where("user_id", "=", bob.user.id).execute();
      await anonymizeUser(deletion, bob.user.id, first.now());
    });
    expect(await handed).toBe("member_not_found");
    const owners = await one.db
      .selectFrom("membership")
      .select("user_id")
      .where("team_id", "=", "default")
      .where("role", "=", "owner")
      .execute();
    expect(owners).toEqual([{ user_id: ada.actor.id }]);
  });
  const isAnybodyWaiting = async () => {
    const { rows } = await sql<{ count: number }>`SELECT count(*)::int AS count FROM pg_locks WHERE NOT granted`.execute(one.db);
    return rows[0]?.count === 0 ? undefined : true;
  };

  test("an invitation that is accepted and taken back at the same moment: one happens, and neither waits for ever", async () => {
    const ada = await first.callerOf(await first.person("ada@example.org"));
    const bob = await there.callerOf(await there.person("bob@example.org"));
    for (let round = 0; round < 30; round += 1) {
      const { id } = await first.accounts.members.invite(ada, "default", { email: "bob@example.org" });
      await first.accounts.mails.sendDue();
      const token = first.mailer.tokenTo("bob@example.org");
      const codes = await Promise.all([
        codeOf(there.accounts.members.accept(bob, token)),
        codeOf(first.accounts.members.revokeInvitation(ada, "default", id)),
      ]);
      expect([["none", "invitation_not_found"].join(), ["token_invalid", "none"].join()], `round ${round}`).toContain(codes.join());
      await one.db.deleteFrom("membership").where("user_id", "=", bob.actor.id).where("team_id", "=", "default").execute();
      await one.db.deleteFrom("rate_limit").execute();
    }
  });

  test("a password is guessed no more often because there are two control planes", async () => {
    await first.person("ada@example.org");
    const guess = (lab: AccountsLab) =>
      codeOf(
        lab.accounts.logins.login(loginBodySchema.parse({ email: "ada@example.org", password: "guess" }), lab.requester("203.0.113.5")),
      );
    const codes = await Promise.all(Array.from({ length: 30 }, (_, index) => guess(index % 2 === 0 ? first : there)));
    expect(codes.filter((code) => code === "login_failed")).toHaveLength(5);
  });

  test("a token of a reset works once, whichever control plane is asked", async () => {
    await first.person("ada@example.org");
    await first.accounts.passwordChanges.askReset("ada@example.org", first.requester());
    await first.accounts.mails.sendDue();
    const token = first.mailer.tokenTo("ada@example.org");
    const codes = await Promise.all(
      Array.from({ length: 10 }, (_, index) =>
        codeOf((index % 2 === 0 ? first : there).accounts.passwordChanges.reset(token, `new password ${index}`, first.requester())),
      ),
    );
    expect(codes.filter((code) => code === "none")).toHaveLength(1);
  });

  test("two control planes send each mail once", async () => {
    const text = { subject: "S", text: "T", html: "" };
    for (let count = 0; count < 40; count += 1) await first.accounts.mails.enqueue(one.db, `user${count}@example.org`, text);
    await Promise.all([first.accounts.mails.sendDue(), there.accounts.mails.sendDue()]);
    const recipients = [...first.mailer.sent, ...there.mailer.sent].map((mail) => mail.recipient);
    expect(recipients).toHaveLength(40);
    expect(new Set(recipients).size).toBe(40);
  });
});
