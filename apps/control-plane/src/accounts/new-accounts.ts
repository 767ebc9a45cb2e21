import { defaultTeamId, newId, nameLengthMax, PlatformError, setUpCodeFile, type SignUpMode } from "@roost/contract";

import type { Audit, PendingEntry } from "../audit/audit.ts";
import type { Db } from "../db/database.ts";
import { insertMembership, takeInvitation } from "../db/members.ts";
import { insertTeam } from "../db/teams.ts";
import { claimFirst, hasFirstUser, insertUser, type UserRow } from "../db/users.ts";
import { newSlug } from "../teams/slug.ts";
import { tellOfTeam } from "../teams/team-events.ts";
import { userCaller, type Requester } from "./requester.ts";

/** Somebody who wants an account. */
export interface Applicant {
  readonly email: string;
  /** Whether it was shown that they read what is sent there */
  readonly isEmailConfirmed: boolean;
  readonly name: string;
  /** null: signs in with a provider */
  readonly passwordHash: string | null;
  /** Of an invitation's token; null: has none */
  readonly invitationHash: Uint8Array | null;
  /** Whether they showed the platform's set-up code */
  readonly isOperator: boolean;
}

export interface NewAccount {
  readonly user: UserRow;
  /** That it is in */
  readonly teamId: string;
}

/**
 * Who gets an account, and what it is from the start: one function for all the ways to sign up. The first with the set-up code (./set-up.ts) is the
 * platform's admin and owner of the first team; all others depend on what the operator allows, also before that.
 */
export class NewAccounts {
  readonly mode: SignUpMode;
  readonly #audit: Audit;
  readonly #now: () => Date;

  constructor(mode: SignUpMode, audit: Audit, now: () => Date) {
    this.mode = mode;
    this.#audit = audit;
    this.#now = now;
  }

  /** Throws `signup_closed` for who could have no account at this moment, whatever the address. */
  async requireOpen(
    db: Db,
    { hasInvitation, isOperator }: { readonly hasInvitation: boolean; readonly isOperator: boolean },
  ): Promise<void> {
    if (this.mode === "open" || (this.mode === "invite" && hasInvitation)) return;
    if (await hasFirstUser(db)) throw this.#closed();
    if (isOperator) return;
    throw new PlatformError(
      "signup_closed",
      `the platform's first account needs its set-up code: \`roost account signup\` on its machine finds it; else give what the file "${setUpCodeFile}" in its state folder says`,
    );
  }

  /** In a transaction, which it ends with entries of the audit log. Throws `signup_closed`, `token_invalid`, `email_taken`. */
  async create(transaction: Db, applicant: Applicant, requester: Requester): Promise<NewAccount> {
    const now = this.#now();
    const id = newId("u");
    const isFirst = applicant.isOperator && (await claimFirst(transaction, id, now));
    const invitation =
      isFirst || applicant.invitationHash === null || this.mode === "closed"
        ? undefined
        : await takeInvitation(transaction, applicant.invitationHash, applicant.email, now);
    if (!isFirst && applicant.invitationHash !== null && invitation === undefined && this.mode !== "closed") throw invitationInvalid();
    if (!isFirst && invitation === undefined && this.mode !== "open") throw this.#closed();

    // An invitation's token was sent to this very address
    const isEmailConfirmed = applicant.isEmailConfirmed || invitation !== undefined;
    const user = await insertUser(transaction, { ...applicant, id, isEmailConfirmed, isAdmin: isFirst }, now);
    if (user === undefined)
      throw new PlatformError("email_taken", "an account has this e-mail address; sign in instead, or reset its password");
    const teamId = isFirst ? defaultTeamId : (invitation?.team_id ?? (await this.#ownTeam(transaction, user)));
    const role = invitation?.role ?? "owner";
    await insertMembership(transaction, teamId, user.id, role, now);

    const caller = userCaller(user, requester);
    await tellOfTeam(transaction, "team.member_added", teamId, caller, "somebody joined the team", { user_id: user.id, role });
    const detail = { team_id: teamId, role, ...(isFirst ? { first: "yes" } : {}) };
    const entries: PendingEntry[] = [
      this.#audit.pending(caller, { action: "user.sign_up", resource: { kind: "user", id: user.id }, detail }),
    ];
    if (invitation !== undefined) {
      const joined = { action: "member.join", resource: { kind: "user", id: user.id }, teamId, detail: { role } } as const;
      entries.push(this.#audit.pending(caller, joined));
    }
    await this.#audit.append(transaction, entries);
    return { user, teamId };
  }

  async #ownTeam(transaction: Db, user: UserRow): Promise<string> {
    const name = `${user.name}'s team`.slice(0, nameLengthMax);
    const team = await insertTeam(transaction, { id: newId("g"), name, slug: newSlug(user.name), timeCreated: this.#now() });
    if (team === undefined) throw new PlatformError("internal", "the new team's slug is taken; try again");
    return team.id;
  }

  #closed(): PlatformError {
    const how =
      this.mode === "invite" ? "ask somebody in a team to invite you, and use the link in that mail" : "ask who runs the platform";
    return new PlatformError("signup_closed", `signing up is not open here: ${how}`);
  }
}

/** Says the same whatever is wrong with it. */
export function invitationInvalid(): PlatformError {
  return new PlatformError(
    "token_invalid",
    "this invitation cannot be used: it was used or taken back, is older than seven days, or is for another e-mail address; ask for a new one",
  );
}
