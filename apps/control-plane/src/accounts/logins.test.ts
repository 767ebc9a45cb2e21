import { loginBodySchema } from "@roost/contract";
import { minute } from "@roost/kit";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { goodPassword, type AccountsLab } from "../testing/accounts-lab.ts";
import { codeOf } from "../testing/code-of.ts";
import { eachAccountsLab } from "../testing/each-accounts-lab.ts";

let lab: AccountsLab;
eachAccountsLab((made) => void (lab = made));

// rate-limiter-flexible looks at the clock itself
beforeEach(() => void vi.useFakeTimers({ toFake: ["Date"] }));
afterEach(() => void vi.useRealTimers());
const later = (ms: number) => {
  vi.setSystemTime(Date.now() + ms);
  lab.advance(ms);
};

const login = (email: string, password: string, address = "203.0.113.1") =>
  lab.accounts.logins.login(loginBodySchema.parse({ email, password }), lab.requester(address));

test("the right password signs in; capitals of the address do not matter, those of the password do", async () => {
  await lab.person("ada@example.org");
  const again = await login("  ADA@Example.org ", goodPassword);
  expect(await lab.isSignedIn(again)).toBe(true);
  expect(await codeOf(login("ada@example.org", goodPassword.toUpperCase()))).toBe("login_failed");
});

test("a wrong password and an unknown address are refused in the same words", async () => {
  await lab.person("ada@example.org");
  const refusals = await Promise.all(
    [login("ada@example.org", "wrong password"), login("nobody@example.org", "wrong password")].map((attempt) =>
      attempt.then(
        () => "signed in",
        (error: Error & { code?: string }) => `${error.code} ${error.message}`,
      ),
    ),
  );
  expect(refusals[0]).toBe(refusals[1]);
  expect(refusals[0]).toContain("login_failed");
});

test("an account without a password has none that fits", async () => {
  const ada = await lab.person("ada@example.org");
  await lab.db.updateTable("user_account").set({ password_hash: null }).where("id", "=", ada.user.id).execute();
  expect(await codeOf(login("ada@example.org", goodPassword))).toBe("login_failed");
});

test("whoever goes on guessing is locked out, for longer each time, also with the right password", async () => {
  await lab.person("ada@example.org");
  const guessUntilLocked = async () => {
    let tries = 0;
    while ((await codeOf(login("ada@example.org", `guess ${tries}`))) === "login_failed") tries += 1;
    return tries;
  };
  expect(await guessUntilLocked()).toBe(5);
  expect(await codeOf(login("ada@example.org", goodPassword)), "the right one, too").toBe("rate_limited");
  later(61_000);
  expect(await guessUntilLocked()).toBe(5);
  later(61_000);
  expect(await codeOf(login("ada@example.org", goodPassword)), "the second lockout is longer").toBe("rate_limited");
  later(61_000);
  await login("ada@example.org", goodPassword);
  expect(await guessUntilLocked(), "who got in starts anew").toBe(5);
});

test("guesses at the same moment are no way around the limit", async () => {
  await lab.person("ada@example.org");
  const codes = await Promise.all(Array.from({ length: 40 }, (_, index) => codeOf(login("ada@example.org", `guess ${index}`))));
  expect(codes.filter((code) => code === "login_failed")).toHaveLength(5);
  expect(codes.filter((code) => code === "rate_limited")).toHaveLength(35);
});

test("guesses from many addresses count for the account; a reset by mail lets its owner in again", async () => {
  await lab.person("ada@example.org");
  let guessed = 0;
  for (let host = 0; host < 10; host += 1) {
    for (let count = 0; count < 4; count += 1) {
      if ((await codeOf(login("ada@example.org", "guess", `198.51.100.${host}`))) === "login_failed") guessed += 1;
    }
  }
  expect(guessed).toBe(20);
  expect(await codeOf(login("ada@example.org", goodPassword, "203.0.113.77"))).toBe("rate_limited");
  await lab.accounts.passwordChanges.askReset("ada@example.org", lab.requester());
  await lab.accounts.mails.sendDue();
  await lab.accounts.passwordChanges.reset(lab.mailer.tokenTo("ada@example.org"), "a new password", lab.requester());
  await login("ada@example.org", "a new password", "203.0.113.77");
});

test("one address cannot try all accounts", async () => {
  let tried = 0;
  while ((await codeOf(login(`user${tried}@example.org`, "guess"))) === "login_failed") tried += 1;
  expect(tried).toBe(60);
  expect(await codeOf(login("ada@example.org", "guess", "203.0.113.2"))).toBe("login_failed");
});

test("what was tried too often says when to try again", async () => {
  await lab.person("ada@example.org");
  for (let count = 0; count < 5; count += 1) await codeOf(login("ada@example.org", "guess"));
  await expect(login("ada@example.org", "guess")).rejects.toMatchObject({ code: "rate_limited", retryAfterSec: 60 });
});

test("a deactivated account is told so only to who knows its password", async () => {
  const admin = await lab.callerOf(await lab.person("ada@example.org"));
  const bob = await lab.member(admin, "bob@example.org");
  await lab.accounts.administration.deactivate(admin, bob.user.id);
  expect(await lab.isSignedIn(bob)).toBe(false);
  expect(await codeOf(login("bob@example.org", "guess"))).toBe("login_failed");
  expect(await codeOf(login("bob@example.org", goodPassword))).toBe("user_deactivated");
  await lab.accounts.administration.activate(admin, bob.user.id);
  expect(await lab.isSignedIn(await login("bob@example.org", goodPassword))).toBe(true);
});

test("sessions are listed, end one by one, and all but one", async () => {
  const first = await lab.person("ada@example.org");
  const second = await login("ada@example.org", goodPassword);
  const third = await login("ada@example.org", goodPassword);
  const caller = await lab.callerOf(first);
  expect((await lab.accounts.sessions.list(first.user.id)).map((row) => row.id).sort()).toEqual(
    [first, second, third].map(({ session }) => session.row.id).sort(),
  );
  await lab.accounts.logins.revoke(caller, second.session.row.id);
  expect(await lab.isSignedIn(second)).toBe(false);
  expect(await codeOf(lab.accounts.logins.revoke(caller, second.session.row.id))).toBe("session_not_found");
  await lab.accounts.logins.revoke(caller, null);
  expect([await lab.isSignedIn(first), await lab.isSignedIn(third)]).toEqual([true, false]);
  await lab.accounts.logins.logout(caller);
  expect(await lab.isSignedIn(first)).toBe(false);
});

test("nobody ends another one's session", async () => {
  const ada = await lab.person("ada@example.org");
  const admin = await lab.callerOf(ada);
  const bob = await lab.callerOf(await lab.member(admin, "bob@example.org"));
  expect(await codeOf(lab.accounts.logins.revoke(bob, ada.session.row.id))).toBe("session_not_found");
  expect(await lab.isSignedIn(ada)).toBe(true);
});

test("a session that nobody uses ends after two weeks, one that is used after three months", async () => {
  const idle = await lab.person("ada@example.org");
  const used = await login("ada@example.org", goodPassword);
  const day = 24 * 60 * minute;
  for (let days = 0; days < 88; days += 4) {
    expect(await lab.isSignedIn(used), `after ${days} days`).toBe(true);
    const lastUsed = async () =>
      (await lab.accounts.sessions.list(used.user.id)).find((row) => row.id === used.session.row.id)?.time_last_used.getTime();
    await expect.poll(lastUsed).toBe(lab.now().getTime());
    later(4 * day);
  }
  expect(await lab.isSignedIn(idle)).toBe(false);
  later(3 * day);
  expect(await lab.isSignedIn(used)).toBe(false);
});

test("of many sessions of one user the least used goes", async () => {
  const first = await lab.person("ada@example.org");
  later(1000);
  for (let count = 0; count < 50; count += 1) await login("ada@example.org", goodPassword);
  expect(await lab.accounts.sessions.list(first.user.id)).toHaveLength(50);
  lab.accounts.sessions.forget();
  expect(await lab.isSignedIn(first)).toBe(false);
});

test("tokens of sessions are not kept in clear", async () => {
  const ada = await lab.person("ada@example.org");
  const [row] = await lab.db.selectFrom("session").selectAll().execute();
  const digits = ada.session.token.slice("session_".length);
  expect(JSON.stringify(row)).not.toContain(digits);
  expect(Buffer.from(row?.token_hash ?? []).includes(Buffer.from(digits, "hex"))).toBe(false);
});
