import { PlatformError, type ChangePasswordInput } from "@roost/contract";
import { minute } from "@roost/kit";

import type { Audit } from "../audit/audit.ts";
import { deleteAccountTokensOf, insertAccountToken, takeAccountToken } from "../db/account-tokens.ts";
import type { Db } from "../db/database.ts";
import { findUser, findUserByEmail, lockUser, setPasswordHash } from "../db/users.ts";
import type { Mails } from "../mail/mails.ts";
import { addressKey, type Attempts } from "./attempts.ts";
import type { Passwords } from "./passwords.ts";
import { userCaller, type Requester } from "./requester.ts";
import { hashOfSecret, newSecret } from "./secrets.ts";
import type { SessionCaller } from "./session-authenticator.ts";
import type { Sessions } from "./sessions.ts";
import { tokenInvalid } from "./sign-ups.ts";

/** Time to use the token of a reset in `ms` */
const resetTimeMs = 30 * minute;

export interface PasswordChangesDependencies {
  readonly db: Db;
  readonly passwords: Passwords;
  readonly attempts: Attempts;
  readonly sessions: Sessions;
  readonly mails: Mails;
  readonly audit: Audit;
  readonly now: () => Date;
}

/** New passwords, for who knows the old one and for who reads the account's mail. Either ends the account's (other) sessions. */
export class PasswordChanges {
  readonly #deps: PasswordChangesDependencies;

  constructor(deps: PasswordChangesDependencies) {
    this.#deps = deps;
  }

  /** Throws `password_wrong`. */
  async change(caller: SessionCaller, { current_password: current, new_password: wanted }: ChangePasswordInput): Promise<void> {
    const { db, passwords, attempts, sessions, mails, audit, now } = this.#deps;
    const user = await findUser(db, caller.actor.id);
    if (user === undefined) throw new PlatformError("api_key_invalid", "this session is over; sign in again");
    const before = user.password_hash;
    if (before !== null) {
      // whoever found an open session must not find out the password through it
      await attempts.countLogin(user.email, addressKey(caller.address));
      if (current === undefined || !(await passwords.verify(current, before))) {
        throw new PlatformError("password_wrong", "current_password is not the account's present password");
      }
      await attempts.forgetLogin(user.email, addressKey(caller.address));
    }
    const hash = await passwords.hash(wanted);
    await db.transaction().execute(async (transaction) => {
      const present = await lockUser(transaction, user.id);
      if (present?.password_hash !== before)
        throw new PlatformError("password_wrong", "the password was changed a moment ago; sign in with that one");
      await setPasswordHash(transaction, user.id, hash, false, now());
      await deleteAccountTokensOf(transaction, user.id, "reset");
      await sessions.revokeAll(transaction, user.id, caller.sessionId);
      await mails.enqueue(transaction, user.email, mails.texts.passwordChanged());
      await audit.record(transaction, caller, { action: "user.password_change", resource: { kind: "user", id: user.id } });
    });
    sessions.forget();
    mails.poke();
  }

  /** Does the same for an address without an account, except that nothing is sent. */
  async askReset(email: string, requester: Requester): Promise<void> {
    const { db, attempts, mails, audit, now } = this.#deps;
    await attempts.count("resetAddress", addressKey(requester.address));
    const isAllowed = await attempts.allows("resetMailTo", email);
    const user = await findUserByEmail(db, email);
    const mayReset = user !== undefined && user.time_deactivated === null && isAllowed;
    const token = newSecret();
    await db.transaction().execute(async (transaction) => {
      const timeExpires = new Date(now().getTime() + resetTimeMs);
      const userId = mayReset ? user.id : null; // without a user a token is of no use
      await insertAccountToken(transaction, { hash: hashOfSecret(token), kind: "reset", userId, detail: {}, timeExpires }, now());
      if (mayReset) await mails.enqueue(transaction, user.email, mails.texts.reset(token));
      const resource = { kind: "user", id: user?.id ?? null };
      await audit.record(transaction, userCaller(user, requester), { action: "user.password_reset_ask", resource });
    });
    mails.poke();
  }

  /** Uses the token up, and all others of the account. Throws `token_invalid`. */
  async reset(token: string, wanted: string, requester: Requester): Promise<void> {
    const { db, passwords, attempts, sessions, mails, audit, now } = this.#deps;
    await attempts.count("tokenAddress", addressKey(requester.address));
    const hash = await passwords.hash(wanted);
    const user = await db.transaction().execute(async (transaction) => {
      const taken = await takeAccountToken(transaction, "reset", hashOfSecret(token), now());
      const found = taken === undefined || taken.userId === null ? undefined : await lockUser(transaction, taken.userId);
      if (found === undefined || found.time_deactivated !== null) throw tokenInvalid("ask for another one");
      await setPasswordHash(transaction, found.id, hash, true, now());
      await deleteAccountTokensOf(transaction, found.id, "reset");
      await sessions.revokeAll(transaction, found.id);
      await mails.enqueue(transaction, found.email, mails.texts.passwordChanged());
      await audit.record(transaction, userCaller(found, requester), {
        action: "user.password_reset",
        resource: { kind: "user", id: found.id },
      });
      return found;
    });
    sessions.forget();
    mails.poke();
    await attempts.forgetAccount(user.email);
  }
}
