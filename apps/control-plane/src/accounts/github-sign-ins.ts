import { createHash, timingSafeEqual } from "node:crypto";

import { emailSchema, nameLengthMax, PlatformError, userNameSchema, type GithubQuery } from "@roost/contract";
import { minute, second } from "@roost/kit";
import { generateRandomCodeVerifier } from "oauth4webapi";

import type { Audit } from "../audit/audit.ts";
import { insertAccountToken, takeAccountToken } from "../db/account-tokens.ts";
import type { Db } from "../db/database.ts";
import type { TokenDetails } from "../db/schema-accounts.ts";
import { hasSession } from "../db/sessions.ts";
import { findUser, findUserByEmail, findUserByIdentity, insertIdentity, lockUser, type UserRow } from "../db/users.ts";
import { addressKey, type Attempts } from "./attempts.ts";
import type { GithubClient, GithubUser } from "./github-client.ts";
import type { Logins } from "./logins.ts";
import type { NewAccounts } from "./new-accounts.ts";
import { userCaller, type Requester } from "./requester.ts";
import { parseReturnAddress, withQuery } from "./return-address.ts";
import { hashOfSecret, newSecret } from "./secrets.ts";
import type { SessionCaller } from "./session-authenticator.ts";
import type { NewSession } from "./sessions.ts";
import { tokenInvalid, type SignIn } from "./sign-ups.ts";

/** Time at GitHub in `ms`: somebody may have to sign in there first */
export const oauthTimeMs = 10 * minute;
/** Time a program has to fetch its session in `ms` */
const exchangeTimeMs = 60 * second;

type Journey = TokenDetails["oauth"];

export interface GithubSignInsDependencies {
  readonly db: Db;
  /** Undefined: it is not set up */
  readonly client: GithubClient | undefined;
  readonly publicUrl: string;
  readonly newAccounts: NewAccounts;
  readonly logins: Logins;
  readonly attempts: Attempts;
  readonly audit: Audit;
  readonly now: () => Date;
}

/** Where to send the browser, and what it keeps. */
export interface Departure {
  readonly url: string;
  /** For the cookie: only this browser may come back */
  readonly browserSecret: string;
}

export interface Arrival {
  readonly url: string;
  /** For the browser's cookie; undefined: a program fetches it, or nobody was signed in */
  readonly session: NewSession | undefined;
}

/**
 * Signing in and up with GitHub, and connecting it. The state that goes to GitHub and back works once, for ten minutes, and only in the browser
 * that set out: a link with somebody else's code signs nobody in.
 */
export class GithubSignIns {
  readonly #deps: GithubSignInsDependencies;

  constructor(deps: GithubSignInsDependencies) {
    this.#deps = deps;
  }

  get isAvailable(): boolean {
    return this.#deps.client !== undefined;
  }

  /** `caller`: whose account GitHub is connected to; undefined: it is signed in or up. */
  async depart(query: GithubQuery, caller: SessionCaller | undefined, requester: Requester): Promise<Departure> {
    const { db, attempts, publicUrl, now } = this.#deps;
    const client = this.#client();
    await attempts.count("oauthAddress", addressKey(requester.address));
    const returnTo = parseReturnAddress(query.return_to, publicUrl, query.challenge !== undefined);
    const state = newSecret();
    const browserSecret = newSecret();
    const codeVerifier = generateRandomCodeVerifier();
    const journey: Journey = {
      browser_hash: hashOfSecret(browserSecret).toString("hex"),
      code_verifier: codeVerifier,
      return_to: returnTo.url,
      challenge: returnTo.kind === "program" ? (query.challenge ?? null) : null,
      invitation_hash: query.invitation === undefined ? null : hashOfSecret(query.invitation).toString("hex"),
      connect_user_id: caller?.actor.id ?? null,
      connect_session_id: caller?.sessionId ?? null,
    };
    const timeExpires = new Date(now().getTime() + oauthTimeMs);
    await insertAccountToken(db, { hash: hashOfSecret(state), kind: "oauth", userId: null, detail: journey, timeExpires }, now());
    return { url: await client.authorizationUrl(state, codeVerifier), browserSecret };
  }

  /**
   * `browserSecret`: of the cookie. Throws `token_invalid` for a way that nobody of this browser set out on: where that led is then not to be
   * trusted either. What fails on a way that is ours is told where it led to.
   */
  async arrive(
    query: { readonly code?: string | undefined; readonly state?: string | undefined; readonly error?: string | undefined },
    browserSecret: string | undefined,
    requester: Requester,
  ): Promise<Arrival> {
    const { db, attempts, now } = this.#deps;
    const client = this.#client();
    await attempts.count("oauthAddress", addressKey(requester.address));
    const taken = query.state === undefined ? undefined : await takeAccountToken(db, "oauth", hashOfSecret(query.state), now());
    if (query.state === undefined || taken === undefined || !isSameBrowser(taken.detail, browserSecret)) throw tokenInvalid("start again");
    const journey = taken.detail;
    try {
      if (query.code === undefined) throw new PlatformError("login_failed", `GitHub says: ${(query.error ?? "no code").slice(0, 60)}`);
      const github = await client.userOf(query.code, query.state, journey.code_verifier);
      if (journey.connect_user_id !== null) return await this.#connect(journey, journey.connect_user_id, github, requester);
      return await this.#finish(journey, await this.#signIn(journey, github, requester));
    } catch (error) {
      if (!(error instanceof PlatformError)) throw error;
      return { url: withQuery(journey.return_to, { error: error.code, error_description: error.message }), session: undefined };
    }
  }

  /** The session of a program, for its code. Throws `token_invalid`. */
  async exchange(code: string, verifier: string, requester: Requester): Promise<SignIn> {
    const { db, attempts, logins, now } = this.#deps;
    await attempts.count("tokenAddress", addressKey(requester.address));
    const taken = await takeAccountToken(db, "exchange", hashOfSecret(code), now());
    const challenge = createHash("sha256").update(verifier, "ascii").digest("base64url");
    if (taken === undefined || taken.userId === null || taken.detail.challenge !== challenge) throw tokenInvalid("sign in again");
    const user = await findUser(db, taken.userId);
    if (user === undefined) throw tokenInvalid("sign in again");
    return logins.start(user, "github", requester);
  }

  /** Whose account it is; a new one where nobody has it. */
  async #signIn(
    journey: Journey,
    github: GithubUser,
    requester: Requester,
  ): Promise<{ readonly user: UserRow; readonly requester: Requester }> {
    const { db, newAccounts, now } = this.#deps;
    const known = await findUserByIdentity(db, "github", github.subject);
    if (known !== undefined) return { user: known, requester };
    const email = emailSchema.safeParse(github.email);
    if (!email.success) {
      throw new PlatformError(
        "login_failed",
        "GitHub has not verified your primary e-mail address; do that there, or sign in with a password",
      );
    }
    const namesake = await findUserByEmail(db, email.data);
    const user = await db.transaction().execute(async (transaction) => {
      const account = namesake ?? (await newAccounts.create(transaction, applicantOf(github, email.data, journey), requester)).user;
      // Somebody else may have made the account with this address, and wait for its owner to come
      if (namesake !== undefined && namesake.time_email_confirmed === null) {
        throw new PlatformError(
          "email_taken",
          "an account has this address, which nobody has confirmed; sign in there, and connect GitHub to it",
        );
      }
      if (!(await insertIdentity(transaction, { provider: "github", subject: github.subject, userId: account.id }, now()))) {
        throw new PlatformError("email_taken", "another GitHub account is connected to the account with this address");
      }
      return account;
    });
    return { user, requester };
  }

  async #finish(journey: Journey, { user, requester }: { readonly user: UserRow; readonly requester: Requester }): Promise<Arrival> {
    const { db, logins, now } = this.#deps;
    if (journey.challenge === null) {
      const { session } = await logins.start(user, "github", requester);
      return { url: journey.return_to, session };
    }
    const code = newSecret();
    const timeExpires = new Date(now().getTime() + exchangeTimeMs);
    const token = {
      hash: hashOfSecret(code),
      kind: "exchange",
      userId: user.id,
      detail: { challenge: journey.challenge },
      timeExpires,
    } as const;
    await insertAccountToken(db, token, now());
    return { url: withQuery(journey.return_to, { code }), session: undefined };
  }

  async #connect(journey: Journey, userId: string, github: GithubUser, requester: Requester): Promise<Arrival> {
    const { db, audit, now } = this.#deps;
    await db.transaction().execute(async (transaction) => {
      const user = await lockUser(transaction, userId);
      if (user === undefined) throw new PlatformError("login_failed", "this account is no more");
      // Whoever ended all sessions because somebody else had one must not find that one's GitHub account connected afterwards
      const sessionId = journey.connect_session_id;
      if (sessionId === null || !(await hasSession(transaction, userId, sessionId, now()))) {
        throw new PlatformError("login_failed", "the session in which you set out has ended; sign in and start again");
      }
      if (!(await insertIdentity(transaction, { provider: "github", subject: github.subject, userId }, now()))) {
        throw new PlatformError("email_taken", "this GitHub account is connected to somebody's account already, or yours to another one");
      }
      const resource = { kind: "user", id: userId };
      await audit.record(transaction, userCaller(user, requester), {
        action: "user.provider_connect",
        resource,
        detail: { provider: "github" },
      });
    });
    return { url: withQuery(journey.return_to, { connected: "github" }), session: undefined };
  }

  #client(): GithubClient {
    const { client } = this.#deps;
    if (client === undefined) {
      throw new PlatformError(
        "provider_unavailable",
        "signing in with GitHub is not set up here; an operator can, with ROOST_GITHUB_CLIENT_ID",
      );
    }
    return client;
  }
}

function isSameBrowser(journey: Journey, browserSecret: string | undefined): boolean {
  return browserSecret !== undefined && timingSafeEqual(hashOfSecret(browserSecret), Buffer.from(journey.browser_hash, "hex"));
}

function applicantOf(github: GithubUser, email: string, journey: Journey): Parameters<NewAccounts["create"]>[1] {
  const name = userNameSchema.safeParse(github.name.slice(0, nameLengthMax));
  return {
    email,
    isEmailConfirmed: true,
    name: name.success ? name.data : "GitHub user",
    passwordHash: null,
    invitationHash: journey.invitation_hash === null ? null : Buffer.from(journey.invitation_hash, "hex"),
    isOperator: false, // the first admin signs up with a password, and connects GitHub: a code in an address would end up in logs
  };
}
