import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";

import { signUpBodySchema } from "@roost/contract";
import { hour, must } from "@roost/kit";
import { describe, expect, test } from "vitest";

import { hashOfSecret } from "./secrets.ts";
import { setUpCodeOf } from "./set-up.ts";
import { AccountsLab, FakeMailer, goodPassword } from "../testing/accounts-lab.ts";
import { codeOf } from "../testing/code-of.ts";
import { eachAccountsLab } from "../testing/each-accounts-lab.ts";

let lab: AccountsLab;
eachAccountsLab((made) => void (lab = made));

const bodyOf = (email: string, more: object = {}) => signUpBodySchema.parse({ email, password: goodPassword, name: "Ada", ...more });
/** As the operator of the platform, who can read its state folder */
const firstBodyOf = (email: string) => bodyOf(email, { setup_code: lab.accounts.setUp.code });

test("the first to sign up is the platform's admin and owner of the first team; then one needs an invitation", async () => {
  const ada = await lab.person("ada@example.org");
  expect(ada.user).toMatchObject({ is_admin: true, email: "ada@example.org" });
  expect(ada.teamId).toBe("default");
  const caller = await lab.callerOf(ada);
  expect(caller).toMatchObject({ role: "owner", teamId: "default", isAdmin: true });
  expect(caller.scopes.has("admin")).toBe(true);
  expect(await codeOf(lab.accounts.signUps.signUp(bodyOf("bob@example.org"), lab.requester()))).toBe("signup_closed");

  const bob = await lab.member(caller, "bob@example.org");
  expect(bob.user.is_admin).toBe(false);
  const bobs = await lab.callerOf(bob);
  expect(bobs).toMatchObject({ role: "member", teamId: "default", isAdmin: false });
  expect(bobs.scopes.has("team:write")).toBe(false);
});

test("that there was a first one is remembered even when all users are gone", async () => {
  const ada = await lab.person("ada@example.org");
  await lab.db.deleteFrom("user_account").where("id", "=", ada.user.id).execute();
  expect(await codeOf(lab.accounts.signUps.signUp(bodyOf("bob@example.org"), lab.requester()))).toBe("signup_closed");
});

test("whoever comes first without the set-up code is no admin, and takes nothing from who has it", async () => {
  const { signUps, setUp } = lab.accounts;
  expect(await codeOf(signUps.signUp(bodyOf("eve@example.org"), lab.requester()))).toBe("signup_closed");
  expect(await codeOf(signUps.signUp(bodyOf("eve@example.org", { setup_code: "0".repeat(32) }), lab.requester()))).toBe("token_invalid");
  using open = new AccountsLab(lab.db, { signup: "open" }, { mailer: new FakeMailer(false) });
  const eve = must(await open.accounts.signUps.signUp(bodyOf("eve@example.org"), open.requester()), "a sign-in");
  expect(eve.user.is_admin).toBe(false);
  expect(eve.teamId).not.toBe("default");
  expect(await signUps.isFirst()).toBe(true);

  const ada = must(await open.accounts.signUps.signUp(firstBodyOf("ada@example.org"), open.requester()), "a sign-in");
  expect(ada).toMatchObject({ user: { is_admin: true }, teamId: "default" });
  const second = must(await open.accounts.signUps.signUp(firstBodyOf("bob@example.org"), open.requester()), "a sign-in");
  expect(second.user.is_admin, "the code works once").toBe(false);
  expect(await codeOf(signUps.signUp(bodyOf("carl@example.org", { setup_code: setUp.code }), lab.requester()))).toBe("signup_closed");
});

test("the set-up code is in a file of the operator's until it was used, and the same for all who have the secret key", async () => {
  const { setUp } = lab.accounts;
  await setUp.offer();
  const path = join(lab.dir, "setup-code");
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect((await readFile(path, "utf8")).trim()).toBe(setUp.code);
  expect(setUpCodeOf("5e".repeat(32))).toBe(setUp.code);
  expect(setUpCodeOf("5f".repeat(32))).not.toBe(setUp.code);
  await lab.person("ada@example.org");
  await expect(stat(path)).rejects.toThrow("ENOENT");
  await setUp.offer();
  await expect(stat(path)).rejects.toThrow("ENOENT");
});

test("an account is made by the token of the mail together with the password, once", async () => {
  expect(await lab.accounts.signUps.signUp(firstBodyOf("ada@example.org"), lab.requester())).toBeUndefined();
  await lab.accounts.mails.sendDue();
  const token = lab.mailer.tokenTo("ada@example.org");
  expect(await lab.db.selectFrom("user_account").selectAll().execute()).toEqual([]);
  expect(await codeOf(lab.accounts.signUps.confirm(token, "another password", lab.requester()))).toBe("login_failed");
  expect(await codeOf(lab.accounts.signUps.confirm("0".repeat(64), goodPassword, lab.requester()))).toBe("token_invalid");
  const ada = await lab.accounts.signUps.confirm(token, goodPassword, lab.requester());
  expect(ada.user.time_email_confirmed).not.toBeNull();
  expect(await codeOf(lab.accounts.signUps.confirm(token, goodPassword, lab.requester()))).toBe("token_invalid");
});

test("of many who confirm with one token at the same time, one does", async () => {
  await lab.accounts.signUps.signUp(firstBodyOf("ada@example.org"), lab.requester());
  await lab.accounts.mails.sendDue();
  const token = lab.mailer.tokenTo("ada@example.org");
  const tries = Array.from({ length: 5 }, () => codeOf(lab.accounts.signUps.confirm(token, goodPassword, lab.requester())));
  const codes = await Promise.all(tries);
  expect(codes.filter((code) => code === "none")).toHaveLength(1);
  expect(await lab.db.selectFrom("user_account").selectAll().execute()).toHaveLength(1);
});

test("a token expires, and is not kept in clear", async () => {
  await lab.accounts.signUps.signUp(firstBodyOf("ada@example.org"), lab.requester());
  await lab.accounts.mails.sendDue();
  const token = lab.mailer.tokenTo("ada@example.org");
  const [row] = await lab.db.selectFrom("account_token").selectAll().execute();
  expect(Buffer.from(must(row, "a token").hash)).toEqual(hashOfSecret(token));
  expect(JSON.stringify(row)).not.toContain(token);
  expect(JSON.stringify(row)).not.toContain(goodPassword);
  expect(await lab.db.selectFrom("mail").selectAll().execute(), "a mail that was sent is forgotten").toEqual([]);
  lab.advance(1 * hour);
  expect(await codeOf(lab.accounts.signUps.confirm(token, goodPassword, lab.requester()))).toBe("token_invalid");
});

describe("open to anybody", () => {
  let open: AccountsLab;
  eachAccountsLab((made) => void (open = made), { signup: "open" });

  test("whoever signs up later owns a team of their own", async () => {
    await open.person("ada@example.org");
    const bob = await open.person("bob@example.org");
    expect(bob.user.is_admin).toBe(false);
    expect(bob.teamId).toMatch(/^g[a-z0-9]{20}$/);
    expect(await open.callerOf(bob)).toMatchObject({ role: "owner", teamId: bob.teamId });
    const carl = await open.person("carl@example.org");
    expect(carl.teamId).not.toBe(bob.teamId);
  });

  test("whether an address has an account is told to its owner only", async () => {
    await open.person("ada@example.org");
    open.mailer.sent.length = 0;
    const known = await open.accounts.signUps.signUp(bodyOf("ada@example.org"), open.requester());
    const unknown = await open.accounts.signUps.signUp(bodyOf("new@example.org"), open.requester());
    expect(known).toEqual(unknown);
    await open.accounts.mails.sendDue();
    expect(open.mailer.to("ada@example.org").map((mail) => mail.subject)).toEqual(["You have an account already"]);
    expect(open.mailer.to("ada@example.org")[0]?.text).not.toContain("token");
    expect(open.mailer.to("new@example.org").map((mail) => mail.subject)).toEqual(["Confirm your e-mail address"]);
  });

  test("two sign-ups for one address: each needs its own password, and one account comes of them", async () => {
    await open.person("first@example.org");
    await open.accounts.signUps.signUp(bodyOf("ada@example.org", { password: "the stranger's own" }), open.requester());
    await open.accounts.mails.sendDue();
    const strangers = open.mailer.tokenTo("ada@example.org");
    await open.accounts.signUps.signUp(bodyOf("ada@example.org"), open.requester());
    await open.accounts.mails.sendDue();
    const own = open.mailer.tokenTo("ada@example.org");
    expect(await codeOf(open.accounts.signUps.confirm(strangers, goodPassword, open.requester()))).toBe("login_failed");
    await open.accounts.signUps.confirm(own, goodPassword, open.requester());
    expect(await codeOf(open.accounts.signUps.confirm(strangers, "the stranger's own", open.requester()))).toBe("email_taken");
  });

  test("mails that strangers can cause are limited, silently", async () => {
    for (let count = 0; count < 8; count += 1) {
      expect(await open.accounts.signUps.signUp(bodyOf("victim@example.org"), open.requester(`198.51.100.${count}`))).toBeUndefined();
    }
    await open.accounts.mails.sendDue();
    expect(open.mailer.to("victim@example.org")).toHaveLength(4);
  });

  test("sign-ups from one address are limited", async () => {
    const codes = [];
    for (let count = 0; count < 22; count += 1) {
      codes.push(await codeOf(open.accounts.signUps.signUp(bodyOf(`user${count}@example.org`), open.requester("198.51.100.7"))));
    }
    expect(codes.slice(0, 20)).toEqual(Array.from({ length: 20 }, () => "none"));
    expect(codes.slice(20)).toEqual(["rate_limited", "rate_limited"]);
    expect(await codeOf(open.accounts.signUps.signUp(bodyOf("other@example.org"), open.requester("198.51.100.8")))).toBe("none");
  });
});

describe("closed", () => {
  let closed: AccountsLab;
  eachAccountsLab((made) => void (closed = made), { signup: "closed" });

  test("nobody signs up after the first, also not with an invitation", async () => {
    const ada = await closed.callerOf(await closed.person("ada@example.org"));
    await closed.accounts.members.invite(ada, "default", { email: "bob@example.org" });
    await closed.accounts.mails.sendDue();
    const invitation = closed.mailer.tokenTo("bob@example.org");
    expect(await codeOf(closed.accounts.signUps.signUp(bodyOf("bob@example.org", { invitation }), closed.requester()))).toBe(
      "signup_closed",
    );
  });
});

test("without a mail server nobody can be asked to confirm: one is in at once, and an address that is taken is told", async () => {
  using fileLab = new AccountsLab(lab.db, { signup: "open" }, { mailer: new FakeMailer(false) });
  const ada = await fileLab.accounts.signUps.signUp(firstBodyOf("ada@example.org"), fileLab.requester());
  expect(ada?.user).toMatchObject({ is_admin: true, time_email_confirmed: null });
  expect(await codeOf(fileLab.accounts.signUps.signUp(bodyOf("ada@example.org"), fileLab.requester()))).toBe("email_taken");
});
