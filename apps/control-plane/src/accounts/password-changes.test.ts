import { loginBodySchema, signUpBodySchema } from "@roost/contract";
import { minute } from "@roost/kit";
import { expect, test } from "vitest";

import { AccountsLab, goodPassword } from "../testing/accounts-lab.ts";
import { codeOf } from "../testing/code-of.ts";
import { eachAccountsLab } from "../testing/each-accounts-lab.ts";

let lab: AccountsLab;
eachAccountsLab((made) => void (lab = made));

const login = (email: string, password: string) => lab.accounts.logins.login(loginBodySchema.parse({ email, password }), lab.requester());
const newToken = async () => {
  await lab.accounts.passwordChanges.askReset("ada@example.org", lab.requester());
  await lab.accounts.mails.sendDue();
  return lab.mailer.tokenTo("ada@example.org");
};
const reset = (token: string, password = "a new password") => lab.accounts.passwordChanges.reset(token, password, lab.requester());

test("a reset works once, ends all sessions, and tells the owner", async () => {
  const before = await lab.person("ada@example.org");
  const token = await newToken();
  await reset(token);
  expect(await lab.isSignedIn(before)).toBe(false);
  expect(await codeOf(login("ada@example.org", goodPassword))).toBe("login_failed");
  await login("ada@example.org", "a new password");
  expect(await codeOf(reset(token, "yet another one"))).toBe("token_invalid");
  await lab.accounts.mails.sendDue();
  expect(lab.mailer.to("ada@example.org").at(-1)?.subject).toBe("Your password was changed");
});

test("of many uses of one token at the same time, one works", async () => {
  await lab.person("ada@example.org");
  const token = await newToken();
  const codes = await Promise.all(Array.from({ length: 5 }, (_, index) => codeOf(reset(token, `new password ${index}`))));
  expect(codes.filter((code) => code === "none")).toHaveLength(1);
  expect(codes.filter((code) => code === "token_invalid")).toHaveLength(4);
});

test("a reset and a change of the password make earlier tokens useless", async () => {
  const ada = await lab.person("ada@example.org");
  const first = await newToken();
  const second = await newToken();
  await reset(second);
  expect(await codeOf(reset(first))).toBe("token_invalid");
  const third = await newToken();
  const caller = await lab.callerOf(await login("ada@example.org", "a new password"));
  await lab.accounts.passwordChanges.change(caller, { current_password: "a new password", new_password: goodPassword });
  expect(await codeOf(reset(third))).toBe("token_invalid");
  expect(ada.user.id).toBe(caller.actor.id);
});

test("a token is too old after half an hour", async () => {
  await lab.person("ada@example.org");
  const token = await newToken();
  lab.advance(30 * minute);
  expect(await codeOf(reset(token))).toBe("token_invalid");
});

test("a token of another kind is no token", async () => {
  await lab.person("ada@example.org");
  const token = await newToken();
  expect(await codeOf(lab.accounts.signUps.confirm(token, goodPassword, lab.requester()))).toBe("token_invalid");
  expect(await codeOf(lab.accounts.github.exchange(token, "v".repeat(43), lab.requester()))).toBe("token_invalid");
  await reset(token);
});

test("an address without an account leaves the same rows, but no mail", async () => {
  await lab.person("ada@example.org");
  const countOf = async () => (await lab.db.selectFrom("account_token").selectAll().where("kind", "=", "reset").execute()).length;
  lab.mailer.sent.length = 0;
  await lab.accounts.passwordChanges.askReset("nobody@example.org", lab.requester());
  expect(await countOf()).toBe(1);
  await lab.accounts.passwordChanges.askReset("ada@example.org", lab.requester());
  expect(await countOf()).toBe(2);
  await lab.accounts.mails.sendDue();
  expect(lab.mailer.sent.map((mail) => mail.recipient)).toEqual(["ada@example.org"]);
});

test("mails of resets are limited per account, silently, and asking per address, aloud", async () => {
  await lab.person("ada@example.org");
  lab.mailer.sent.length = 0;
  for (let count = 0; count < 6; count += 1)
    await lab.accounts.passwordChanges.askReset("ada@example.org", lab.requester(`198.51.100.${count}`));
  await lab.accounts.mails.sendDue();
  expect(lab.mailer.sent).toHaveLength(4);
  const codes = [];
  for (let count = 0; count < 22; count += 1) {
    codes.push(await codeOf(lab.accounts.passwordChanges.askReset(`user${count}@example.org`, lab.requester("203.0.113.9"))));
  }
  expect(codes.filter((code) => code === "rate_limited")).toHaveLength(2);
});

test("strangers who sign up with somebody's address do not keep them from resetting their password", async () => {
  await lab.person("ada@example.org");
  using open = new AccountsLab(lab.db, { signup: "open" }, { mailer: lab.mailer });
  const body = signUpBodySchema.parse({ email: "ada@example.org", name: "Eve", password: goodPassword });
  for (let count = 0; count < 6; count += 1) await open.accounts.signUps.signUp(body, open.requester(`198.51.100.${count}`));
  await reset(await newToken());
  await login("ada@example.org", "a new password");
});

test("a change needs the present password, and ends all sessions but this one", async () => {
  const here = await lab.person("ada@example.org");
  const there = await login("ada@example.org", goodPassword);
  const caller = await lab.callerOf(here);
  const change = (current?: string) =>
    lab.accounts.passwordChanges.change(caller, {
      ...(current === undefined ? {} : { current_password: current }),
      new_password: "a new password",
    });
  expect(await codeOf(change())).toBe("password_wrong");
  expect(await codeOf(change("wrong"))).toBe("password_wrong");
  await change(goodPassword);
  expect([await lab.isSignedIn(here), await lab.isSignedIn(there)]).toEqual([true, false]);
  await login("ada@example.org", "a new password");
});

test("who found an open session cannot guess the password through it", async () => {
  const caller = await lab.callerOf(await lab.person("ada@example.org"));
  const codes = [];
  for (let count = 0; count < 6; count += 1) {
    codes.push(
      await codeOf(lab.accounts.passwordChanges.change(caller, { current_password: `guess ${count}`, new_password: "a new password" })),
    );
  }
  expect(codes.at(-1)).toBe("rate_limited");
});

test("a token of an account that was deactivated meanwhile is of no use", async () => {
  const admin = await lab.callerOf(await lab.person("root@example.org"));
  const ada = await lab.member(admin, "ada@example.org");
  const token = await newToken();
  await lab.accounts.administration.deactivate(admin, ada.user.id);
  expect(await codeOf(reset(token))).toBe("token_invalid");
});
