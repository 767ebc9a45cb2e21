import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { signUpBodySchema } from "@roost/contract";
import { must, silentLogger, type Logger } from "@roost/kit";

import { createAccounts, type Accounts } from "../accounts/accounts.ts";
import type { PasswordCost } from "../accounts/passwords.ts";
import type { Requester } from "../accounts/requester.ts";
import type { SessionCaller } from "../accounts/session-authenticator.ts";
import type { SignIn } from "../accounts/sign-ups.ts";
import { Audit } from "../audit/audit.ts";
import type { Db } from "../db/database.ts";
import type { Mailer, OutgoingMail } from "../mail/mailer.ts";
import { controlPlaneOptions, type ControlPlaneOptions } from "../options.ts";
import { ApiKeys } from "../teams/api-keys.ts";

/** Hashing that costs nothing: tests are not about its cost */
export const cheapPasswords: PasswordCost = { logN: 4, r: 1, p: 1 };

/** Keeps what it is given, or fails. */
export class FakeMailer implements Mailer {
  readonly isReal: boolean;
  readonly sent: OutgoingMail[] = [];
  /** Called before a mail is taken over; may throw */
  onSend: (mail: OutgoingMail) => Promise<void> = async () => undefined;

  constructor(isReal = true) {
    this.isReal = isReal;
  }

  async send(mail: OutgoingMail): Promise<void> {
    await this.onSend(mail);
    this.sent.push(mail);
  }

  close(): void {}

  /** The secret in the newest mail to somebody that has one. */
  tokenTo(recipient: string): string {
    const tokens = this.to(recipient).flatMap((mail) => /#token=([0-9a-f]{64})/.exec(mail.text)?.[1] ?? []);
    return must(tokens.at(-1), `a token in a mail to ${recipient}`);
  }

  to(recipient: string): OutgoingMail[] {
    return this.sent.filter((mail) => mail.recipient === recipient);
  }
}

export const goodPassword = "correct horse battery";

/** All that is about people, over a database, with a clock of its own; no HTTP. */
export class AccountsLab implements Disposable {
  readonly accounts: Accounts;
  readonly apiKeys: ApiKeys;
  readonly db: Db;
  readonly mailer: FakeMailer;
  readonly #dir: string;
  readonly #clock: { now: number };

  constructor(
    db: Db,
    options: Partial<ControlPlaneOptions> = {},
    { mailer = new FakeMailer(), log = silentLogger, clock }: { mailer?: FakeMailer; log?: Logger; clock?: { now: number } } = {},
  ) {
    this.#dir = mkdtempSync(join(tmpdir(), "roost-accounts-"));
    this.#clock = clock ?? { now: Date.now() };
    this.db = db;
    this.mailer = mailer;
    const audit = new Audit();
    const now = () => new Date(this.#clock.now);
    this.apiKeys = new ApiKeys({ db, audit, log, now: () => this.#clock.now });
    const all = { ...controlPlaneOptions.read({}), dir: this.#dir, ...options };
    const secretKey = "5e".repeat(32);
    this.accounts = createAccounts(all, { db, apiKeys: this.apiKeys, audit, secretKey, log, now, mailer, passwordCost: cheapPasswords });
  }

  /** The state folder */
  get dir(): string {
    return this.#dir;
  }

  now(): Date {
    return new Date(this.#clock.now);
  }

  advance(ms: number): void {
    this.#clock.now += ms;
  }

  /** From an address of its own, so that what others try does not count. */
  requester(address = "192.0.2.1"): Requester {
    return { requestId: "req_test", address, client: "test" };
  }

  /** Somebody with an account, by whatever way that is open; the first of all is the platform's operator. */
  async person(email: string, options: { readonly invitation?: string; readonly address?: string } = {}): Promise<SignIn> {
    const { address = `192.0.2.${(email.length * 7) % 250}` } = options;
    const requester = this.requester(address);
    this.advance(1); // nobody comes at the same moment as somebody else
    const name = email.split("@", 1)[0] ?? email;
    const body = signUpBodySchema.parse({
      email,
      name,
      password: goodPassword,
      ...(options.invitation === undefined ? {} : { invitation: options.invitation }),
      ...((await this.accounts.signUps.isFirst()) ? { setup_code: this.accounts.setUp.code } : {}),
    });
    const direct = await this.accounts.signUps.signUp(body, requester);
    if (direct !== undefined) return direct;
    await this.accounts.mails.sendDue();
    return this.accounts.signUps.confirm(this.mailer.tokenTo(email), goodPassword, requester);
  }

  async callerOf(signIn: SignIn, teamId?: string): Promise<SessionCaller> {
    const headers = { authorization: `Bearer ${signIn.session.token}`, ...(teamId === undefined ? {} : { "x-team-id": teamId }) };
    const request = { headers, method: "GET" } as never;
    const caller = await this.accounts.authenticator.identify({ request, requestId: "req_test", address: "192.0.2.9" });
    return must(caller, "a caller");
  }

  async isSignedIn(signIn: SignIn): Promise<boolean> {
    return (await this.accounts.sessions.find(signIn.session.token)) !== undefined;
  }

  /** Somebody who joined `teamId` by an invitation of `inviter`. */
  async member(inviter: SessionCaller, email: string, role: "member" | "admin" = "member"): Promise<SignIn> {
    await this.accounts.members.invite(inviter, inviter.teamId, { email, role });
    await this.accounts.mails.sendDue();
    return this.person(email, { invitation: this.mailer.tokenTo(email) });
  }

  [Symbol.dispose](): void {
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

/** Empties what labs on one database leave to each other. */
export async function forgetAccounts(db: Db): Promise<void> {
  for (const table of [
    "session",
    "account_token",
    "invitation",
    "membership",
    "user_identity",
    "user_account",
    "first_user",
    "mail",
    "rate_limit",
  ] as const) {
    await db.deleteFrom(table).execute();
  }
  await db.deleteFrom("api_key").execute();
  await db.deleteFrom("event").where("team_id", "is not", null).execute();
  await db.deleteFrom("team").where("id", "<>", "default").execute();
}
