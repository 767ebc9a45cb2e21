import { PlatformError, type SignUpBody } from "@roost/contract";
import { hour } from "@roost/kit";

import { findAccountToken, insertAccountToken, takeAccountToken } from "../db/account-tokens.ts";
import type { Db } from "../db/database.ts";
import { findUserByEmail, hasFirstUser } from "../db/users.ts";
import type { Mails } from "../mail/mails.ts";
import { addressKey, type Attempts } from "./attempts.ts";
import type { NewAccount, NewAccounts } from "./new-accounts.ts";
import type { Passwords } from "./passwords.ts";
import type { Requester } from "./requester.ts";
import { hashOfSecret, newSecret } from "./secrets.ts";
import type { NewSession, Sessions } from "./sessions.ts";
import type { SetUp } from "./set-up.ts";

/** Time to confirm an address in `ms` */
const confirmTimeMs = 1 * hour;

/** Somebody is signed in from now on. */
export interface SignIn extends Pick<NewAccount, "user"> {
  readonly teamId: string | null;
  readonly session: NewSession;
}

export interface SignUpsDependencies {
  readonly db: Db;
  readonly newAccounts: NewAccounts;
  readonly setUp: SetUp;
  readonly passwords: Passwords;
  readonly attempts: Attempts;
  readonly sessions: Sessions;
  readonly mails: Mails;
  readonly now: () => Date;
}

/**
 * Signing up with a password. Where mails get to people, an account is made only when its address was confirmed: by the token of the mail together
 * with the password, so that neither a stranger who typed somebody's address gets an account with it, nor somebody who clicks on a link that they
 * did not ask for makes one with a stranger's password. Then, too, the answer does not tell whether the address has an account.
 */
export class SignUps {
  readonly #deps: SignUpsDependencies;

  constructor(deps: SignUpsDependencies) {
    this.#deps = deps;
  }

  get mode() {
    return this.#deps.newAccounts.mode;
  }

  async isFirst(): Promise<boolean> {
    return !(await hasFirstUser(this.#deps.db));
  }

  /** Undefined: the address has to be confirmed. Throws `signup_closed`, `email_taken`, `token_invalid`. */
  async signUp(body: SignUpBody, requester: Requester): Promise<SignIn | undefined> {
    const { db, attempts, newAccounts, setUp, passwords, mails } = this.#deps;
    await attempts.count("signUpAddress", addressKey(requester.address));
    const isOperator = body.setup_code !== undefined && setUp.isCode(body.setup_code);
    if (body.setup_code !== undefined && !isOperator)
      throw new PlatformError("token_invalid", "setup_code: this is not the platform's set-up code");
    await newAccounts.requireOpen(db, { hasInvitation: body.invitation !== undefined, isOperator });
    const passwordHash = await passwords.hash(body.password);
    const invitationHash = body.invitation === undefined ? null : hashOfSecret(body.invitation);
    if (!mails.isReal || invitationHash !== null) {
      const { email, name } = body;
      return this.#create({ email, name, passwordHash, invitationHash, isOperator, isEmailConfirmed: false }, requester);
    }
    await this.#askToConfirm(body, passwordHash, isOperator);
    return undefined;
  }

  /** Throws `token_invalid`, `login_failed` (it is not the password of the sign-up), `signup_closed`, `email_taken`. */
  async confirm(token: string, password: string, requester: Requester): Promise<SignIn> {
    const { db, attempts, passwords, now } = this.#deps;
    const hash = hashOfSecret(token);
    await attempts.count("tokenAddress", addressKey(requester.address));
    const found = await findAccountToken(db, "sign_up", hash, now());
    if (found === undefined) throw tokenInvalid("sign up again");
    await attempts.countLogin(found.detail.email, addressKey(requester.address));
    if (!(await passwords.verify(password, found.detail.password_hash))) {
      throw new PlatformError("login_failed", "this is not the password that was chosen at sign-up");
    }
    await attempts.forgetLogin(found.detail.email, addressKey(requester.address));
    const { email, name, password_hash: passwordHash, is_operator: isOperator = false } = found.detail;
    return this.#create({ email, name, passwordHash, invitationHash: null, isOperator, isEmailConfirmed: true }, requester, hash);
  }

  async #create(applicant: Parameters<NewAccounts["create"]>[1], requester: Requester, tokenHash?: Uint8Array): Promise<SignIn> {
    const { db, newAccounts, setUp, sessions, now } = this.#deps;
    const signIn = await db.transaction().execute(async (transaction) => {
      if (tokenHash !== undefined && (await takeAccountToken(transaction, "sign_up", tokenHash, now())) === undefined) {
        throw tokenInvalid("sign up again");
      }
      const account = await newAccounts.create(transaction, applicant, requester);
      return { ...account, session: await sessions.create(transaction, account.user.id, account.teamId, requester) };
    });
    if (applicant.isOperator) await setUp.offer();
    return signIn;
  }

  /** As much work for an address that has an account: its owner is told, and whoever asked cannot tell. */
  async #askToConfirm({ email, name }: SignUpBody, passwordHash: string, isOperator: boolean): Promise<void> {
    const { db, attempts, mails, now } = this.#deps;
    const isAllowed = await attempts.allows("signUpMailTo", email);
    const token = newSecret();
    const hasAccount = (await findUserByEmail(db, email)) !== undefined;
    await db.transaction().execute(async (transaction) => {
      const detail = { email, name, password_hash: passwordHash, is_operator: isOperator };
      const timeExpires = new Date(now().getTime() + confirmTimeMs);
      await insertAccountToken(transaction, { hash: hashOfSecret(token), kind: "sign_up", userId: null, detail, timeExpires }, now());
      if (isAllowed) await mails.enqueue(transaction, email, hasAccount ? mails.texts.accountExists() : mails.texts.confirm(token));
    });
    mails.poke();
  }
}

/** Says the same whatever is wrong with it. */
export function tokenInvalid(whatThen: string): PlatformError {
  return new PlatformError("token_invalid", `this link cannot be used: it was used already, or is too old; ${whatThen}`);
}
