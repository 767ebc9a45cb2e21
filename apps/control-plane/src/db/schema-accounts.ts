import type { TeamRole } from "@roost/contract";
import type { ColumnType, Generated } from "kysely";

export interface AccountTables {
  user_account: UserTable;
  first_user: FirstUserTable;
  user_identity: IdentityTable;
  membership: MembershipTable;
  session: SessionTable;
  account_token: AccountTokenTable;
  invitation: InvitationTable;
  mail: MailTable;
  rate_limit: RateLimitTable;
}

export interface UserTable {
  id: string;
  email: string;
  /** null: nobody has shown that they read what is sent there */
  time_email_confirmed: Date | null;
  name: string;
  /** null: signs in with a provider only */
  password_hash: string | null;
  is_admin: Generated<boolean>;
  time_created: Date;
  time_deactivated: Date | null;
  time_deleted: Date | null;
}

/** One row at most, ever. */
export interface FirstUserTable {
  only_row: Generated<boolean>;
  user_id: string;
  time_created: Date;
}

export type Provider = "github";

export interface IdentityTable {
  provider: Provider;
  /** The provider's own id of the account */
  subject: string;
  user_id: string;
  time_created: Date;
}

export interface MembershipTable {
  team_id: string;
  user_id: string;
  role: TeamRole;
  time_created: Date;
}

export interface SessionTable {
  id: string;
  token_hash: Uint8Array;
  user_id: string;
  /** That it acts for unless a request names another; null: the user is in none */
  team_id: string | null;
  client: string;
  address: string | null;
  time_created: Date;
  time_last_used: Date;
  time_expires: Date;
}

/** What goes on when a token is used, by its kind. */
export interface TokenDetails {
  /** An account that is made when the address is confirmed */
  sign_up: {
    readonly email: string;
    readonly name: string;
    readonly password_hash: string;
    /** Whether they showed the platform's set-up code; absent: they did not */
    readonly is_operator?: boolean;
  };
  reset: Record<string, never>;
  /** On the way to a provider and back */
  oauth: {
    /** Of the cookie in the browser that set out, hex */
    readonly browser_hash: string;
    readonly code_verifier: string;
    readonly return_to: string;
    readonly challenge: string | null;
    /** Of an invitation's token, hex */
    readonly invitation_hash: string | null;
    /** Whose account the provider is connected to; null: it is signed in or up */
    readonly connect_user_id: string | null;
    /** The session in which they set out: what ended it ends this, too */
    readonly connect_session_id: string | null;
  };
  exchange: { readonly challenge: string };
}
export type TokenKind = keyof TokenDetails;

export interface AccountTokenTable {
  hash: Uint8Array;
  kind: TokenKind;
  user_id: string | null;
  detail: ColumnType<TokenDetails[TokenKind], string, never>;
  time_created: Date;
  time_expires: Date;
}

export interface InvitationTable {
  id: string;
  team_id: string;
  email: string;
  role: "admin" | "member";
  token_hash: Uint8Array;
  invited_by: string;
  /** User or API key; null: from before this was kept */
  invited_by_id: string | null;
  time_created: Date;
  time_expires: Date;
}

export interface MailTable {
  id: string;
  recipient: string;
  subject: string;
  text: string;
  html: string;
  attempts: Generated<number>;
  time_created: Date;
  time_next: Date;
  time_given_up: Date | null;
  last_error: string | null;
}

/** rate-limiter-flexible's own form. */
export interface RateLimitTable {
  key: string;
  points: number;
  expire: number | null;
}
