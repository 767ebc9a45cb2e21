import { join } from "node:path";

import { hour, ServiceLoop, type Logger } from "@roost/kit";

import type { Audit } from "../audit/audit.ts";
import { deleteExpired } from "../db/account-upkeep.ts";
import type { Db } from "../db/database.ts";
import { CookieJar } from "../http/session-cookie.ts";
import { FileMailer } from "../mail/file-mailer.ts";
import type { Mailer } from "../mail/mailer.ts";
import { Mails } from "../mail/mails.ts";
import { SmtpMailer } from "../mail/smtp-mailer.ts";
import type { ControlPlaneOptions } from "../options.ts";
import type { ApiKeys } from "../teams/api-keys.ts";
import { Members } from "../teams/members.ts";
import { TeamRequests } from "../teams/team-requests.ts";
import { Administration } from "./administration.ts";
import { Attempts } from "./attempts.ts";
import { GithubClient } from "./github-client.ts";
import { GithubSignIns } from "./github-sign-ins.ts";
import { Logins } from "./logins.ts";
import { NewAccounts } from "./new-accounts.ts";
import { PasswordChanges } from "./password-changes.ts";
import { Passwords, type PasswordCost } from "./passwords.ts";
import { Profiles } from "./profiles.ts";
import { SessionAuthenticator } from "./session-authenticator.ts";
import { Sessions } from "./sessions.ts";
import { SetUp } from "./set-up.ts";
import { SignUps } from "./sign-ups.ts";

/** Time between two rounds in which what is over is forgotten, in `ms` */
const upkeepIntervalMs = 1 * hour;

/** All that is about people and their teams. */
export interface Accounts {
  readonly signUps: SignUps;
  readonly logins: Logins;
  readonly passwordChanges: PasswordChanges;
  readonly github: GithubSignIns;
  readonly profiles: Profiles;
  readonly sessions: Sessions;
  readonly members: Members;
  readonly administration: Administration;
  readonly teamRequests: TeamRequests;
  readonly authenticator: SessionAuthenticator;
  readonly cookies: CookieJar;
  readonly mails: Mails;
  /** What makes the first who signs up the admin */
  readonly setUp: SetUp;
  /** Whose pages may act for their visitors, besides those of the host that is asked */
  readonly origins: readonly string[];
  /** Sends mails, and forgets what is over, until the signal aborts. */
  run(signal: AbortSignal): Promise<void>;
}

export type AccountsOptions = Pick<
  ControlPlaneOptions,
  | "dir"
  | "port"
  | "publicUrl"
  | "allowedOrigins"
  | "signup"
  | "smtpUrl"
  | "mailFrom"
  | "githubClientId"
  | "githubClientSecret"
  | "githubUrl"
>;

export interface AccountsDependencies {
  readonly db: Db;
  readonly apiKeys: ApiKeys;
  readonly audit: Audit;
  /** Of the installation: 64 hex digits */
  readonly secretKey: string;
  readonly log: Logger;
  readonly now?: (() => Date) | undefined;
  /** Tests have their own, and cheap passwords */
  readonly mailer?: Mailer | undefined;
  readonly passwordCost?: PasswordCost | undefined;
}

export function createAccounts(options: AccountsOptions, deps: AccountsDependencies): Accounts {
  const { db, apiKeys, audit, secretKey, log, now = () => new Date() } = deps;
  const publicUrl = (options.publicUrl ?? `http://localhost:${options.port}`).replace(/\/+$/, "");
  const mails = new Mails({ db, mailer: deps.mailer ?? createMailer(options, publicUrl, log), publicUrl, log, now });
  const passwords = new Passwords(deps.passwordCost);
  const attempts = new Attempts(db);
  const sessions = new Sessions(db, log, now);
  const cookies = new CookieJar(publicUrl);
  const teamRequests = new TeamRequests(db);
  const origins = [...options.allowedOrigins, new URL(publicUrl).origin];
  const newAccounts = new NewAccounts(options.signup, audit, now);
  const logins = new Logins({ db, passwords, attempts, sessions, audit });
  const client = createGithubClient(options, publicUrl);
  const setUp = new SetUp({ db, secretKey, dir: options.dir, log });
  const upkeep = async () => {
    await deleteExpired(db, now());
    await setUp.offer();
  };
  return {
    signUps: new SignUps({ db, newAccounts, setUp, passwords, attempts, sessions, mails, now }),
    logins,
    passwordChanges: new PasswordChanges({ db, passwords, attempts, sessions, mails, audit, now }),
    github: new GithubSignIns({ db, client, publicUrl, newAccounts, logins, attempts, audit, now }),
    profiles: new Profiles({ db, sessions, apiKeys, audit, now }),
    sessions,
    members: new Members({ db, sessions, apiKeys, attempts, mails, audit, now }),
    administration: new Administration({ db, sessions, apiKeys, teamRequests, audit, now }),
    teamRequests,
    authenticator: new SessionAuthenticator(sessions, cookies, origins),
    cookies,
    mails,
    setUp,
    origins,
    run: async (signal) => {
      const loop = new ServiceLoop("upkeep of accounts", log, signal);
      await Promise.all([mails.run(signal), loop.every(upkeepIntervalMs, upkeep)]);
    },
  };
}

function createMailer({ smtpUrl, mailFrom, dir }: AccountsOptions, publicUrl: string, log: Logger): Mailer {
  if (smtpUrl === undefined) return new FileMailer(join(dir, "mail"), log);
  return new SmtpMailer(smtpUrl, mailFrom ?? `Roost <noreply@${new URL(publicUrl).hostname}>`);
}

function createGithubClient(
  { githubClientId, githubClientSecret, githubUrl }: AccountsOptions,
  publicUrl: string,
): GithubClient | undefined {
  if (githubClientId === undefined || githubClientSecret === undefined) return undefined;
  const redirectUri = `${publicUrl}/v1/auth/github/callback`;
  return new GithubClient({ clientId: githubClientId, clientSecret: githubClientSecret, url: githubUrl.replace(/\/+$/, ""), redirectUri });
}
