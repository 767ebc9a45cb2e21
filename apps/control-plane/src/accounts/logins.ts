import { PlatformError, type LoginBody } from "@roost/contract";

import type { Audit } from "../audit/audit.ts";
import type { Db } from "../db/database.ts";
import { listTeamsOf } from "../db/members.ts";
import { findUserByEmail, lockUser, type UserRow } from "../db/users.ts";
import { addressKey, type Attempts } from "./attempts.ts";
import type { Passwords } from "./passwords.ts";
import { userCaller, type Requester } from "./requester.ts";
import type { SessionCaller } from "./session-authenticator.ts";
import type { Sessions } from "./sessions.ts";
import type { SignIn } from "./sign-ups.ts";

export interface LoginsDependencies {
  readonly db: Db;
  readonly passwords: Passwords;
  readonly attempts: Attempts;
  readonly sessions: Sessions;
  readonly audit: Audit;
}

/** Signing in and out. */
export class Logins {
  readonly #deps: LoginsDependencies;

  constructor(deps: LoginsDependencies) {
    this.#deps = deps;
  }

  /** Throws `login_failed`, the same for a wrong password and for an address without an account, after the same work; `user_deactivated`. */
  async login({ email, password }: LoginBody, requester: Requester): Promise<SignIn> {
    const { db, attempts, passwords, audit } = this.#deps;
    const address = addressKey(requester.address);
    await attempts.countLogin(email, address);
    const user = await findUserByEmail(db, email);
    if (!(await passwords.verify(password, user?.password_hash ?? null)) || user === undefined) {
      const resource = { kind: "user", id: user?.id ?? null };
      await audit.record(db, userCaller(user, requester), { action: "user.login_failed", resource, status: "failure" });
      throw new PlatformError("login_failed", "the e-mail address or the password is wrong");
    }
    await attempts.forgetLogin(email, address);
    return this.start(user, "password", requester);
  }

  /** A session for somebody of whom it is known that it is them. Throws `user_deactivated`. */
  async start(user: UserRow, method: string, requester: Requester): Promise<SignIn> {
    const { db, sessions, audit } = this.#deps;
    if (user.time_deactivated !== null) {
      throw new PlatformError("user_deactivated", "this account was deactivated by an admin of the platform; ask them");
    }
    return db.transaction().execute(async (transaction) => {
      // A password that was changed since it was compared ended all sessions: it must not begin one
      const present = await lockUser(transaction, user.id);
      if (present?.password_hash !== user.password_hash) throw new PlatformError("login_failed", "the password was changed a moment ago");
      const teams = await listTeamsOf(transaction, user.id);
      const teamId = teams[0]?.id ?? null;
      const session = await sessions.create(transaction, user.id, teamId, requester);
      await audit.record(transaction, userCaller(user, requester), {
        action: "user.login",
        resource: { kind: "user", id: user.id },
        detail: { method },
      });
      return { user, teamId, session };
    });
  }

  async logout(caller: SessionCaller): Promise<void> {
    const { db, sessions, audit } = this.#deps;
    await db.transaction().execute(async (transaction) => {
      await sessions.revoke(transaction, caller.actor.id, caller.sessionId);
      await audit.record(transaction, caller, { action: "user.logout", resource: { kind: "session", id: caller.sessionId } });
    });
    sessions.forget();
  }

  /** `id` null: all but the caller's own. Throws `session_not_found`. */
  async revoke(caller: SessionCaller, id: string | null): Promise<void> {
    const { db, sessions, audit } = this.#deps;
    await db.transaction().execute(async (transaction) => {
      if (id === null) await sessions.revokeAll(transaction, caller.actor.id, caller.sessionId);
      else await sessions.revoke(transaction, caller.actor.id, id);
      await audit.record(transaction, caller, { action: "session.revoke", resource: { kind: "session", id } });
    });
    sessions.forget();
  }
}
