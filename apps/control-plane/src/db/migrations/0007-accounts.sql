-- People: accounts, sessions, who is in which team, and the mails that tell them.

CREATE TABLE user_account (
  id                     text        PRIMARY KEY CHECK (id ~ '^u[a-z0-9]{20}$'),
  -- in lower case; of a deleted account its id and '@deleted'
  email                  text        NOT NULL UNIQUE CHECK (length(email) BETWEEN 3 AND 254 AND email = lower(email)),
  -- null: nobody has shown that they read what is sent there
  time_email_confirmed   timestamptz,
  name                   text        NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
  -- accounts/passwords.ts has its form; null: signs in with a provider only
  password_hash          text,
  is_admin               boolean     NOT NULL DEFAULT false,
  time_created           timestamptz NOT NULL,
  time_deactivated       timestamptz,
  time_deleted           timestamptz,
  CONSTRAINT deleted_is_deactivated CHECK (time_deleted IS NULL OR (time_deactivated IS NOT NULL AND password_hash IS NULL AND NOT is_admin))
);
CREATE INDEX user_account_newest ON user_account (time_created DESC, id DESC);
CREATE INDEX user_account_admin ON user_account (id) WHERE is_admin;

-- Who signed up first. One row at most, ever: whoever inserts it is the platform's admin and owner of team 'default'.
CREATE TABLE first_user (
  only_row               boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
  user_id                text        NOT NULL,
  time_created           timestamptz NOT NULL
);

CREATE TABLE user_identity (
  provider               text        NOT NULL CHECK (provider IN ('github')),
  -- the provider's own id of the account: names and addresses change hands
  subject                text        NOT NULL CHECK (length(subject) BETWEEN 1 AND 64),
  user_id                text        NOT NULL REFERENCES user_account (id) ON DELETE CASCADE,
  time_created           timestamptz NOT NULL,
  PRIMARY KEY (provider, subject),
  UNIQUE (user_id, provider)
);

CREATE TABLE membership (
  team_id                text        NOT NULL REFERENCES team (id),
  user_id                text        NOT NULL REFERENCES user_account (id) ON DELETE CASCADE,
  role                   text        NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
  time_created           timestamptz NOT NULL,
  PRIMARY KEY (team_id, user_id)
);
CREATE INDEX membership_of_user ON membership (user_id);

CREATE TABLE session (
  id                     uuid        PRIMARY KEY,
  -- SHA-256 of the token, which is nowhere else
  token_hash             bytea       NOT NULL UNIQUE CHECK (length(token_hash) = 32),
  user_id                text        NOT NULL REFERENCES user_account (id) ON DELETE CASCADE,
  -- the team that it acts for unless a request names another; null: the user is in none
  team_id                text        REFERENCES team (id),
  client                 text        NOT NULL CHECK (length(client) <= 256),
  address                text,
  time_created           timestamptz NOT NULL,
  time_last_used         timestamptz NOT NULL,
  time_expires           timestamptz NOT NULL
);
CREATE INDEX session_of_user ON session (user_id, time_created DESC);
CREATE INDEX session_end ON session (time_expires);

-- Secrets that work once: of mails (sign-up, reset) and of the ways to a provider and back.
CREATE TABLE account_token (
  hash                   bytea       PRIMARY KEY CHECK (length(hash) = 32),
  kind                   text        NOT NULL CHECK (kind IN ('sign_up', 'reset', 'oauth', 'exchange')),
  user_id                text        REFERENCES user_account (id) ON DELETE CASCADE,
  -- what goes on when it is used; its form follows from the kind (db/account-tokens.ts)
  detail                 jsonb       NOT NULL,
  time_created           timestamptz NOT NULL,
  time_expires           timestamptz NOT NULL
);
CREATE INDEX account_token_of_user ON account_token (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX account_token_end ON account_token (time_expires);

CREATE TABLE invitation (
  id                     text        PRIMARY KEY CHECK (id ~ '^v[a-z0-9]{20}$'),
  team_id                text        NOT NULL REFERENCES team (id),
  email                  text        NOT NULL CHECK (email = lower(email)),
  role                   text        NOT NULL CHECK (role IN ('admin', 'member')),
  token_hash             bytea       NOT NULL UNIQUE CHECK (length(token_hash) = 32),
  -- who asked; its name then, for people
  invited_by             text        NOT NULL,
  time_created           timestamptz NOT NULL,
  time_expires           timestamptz NOT NULL,
  UNIQUE (team_id, email)
);
CREATE INDEX invitation_end ON invitation (time_expires);

-- Mails to be sent. What was sent is deleted: it holds secrets.
CREATE TABLE mail (
  id                     uuid        PRIMARY KEY,
  recipient              text        NOT NULL,
  subject                text        NOT NULL,
  text                   text        NOT NULL,
  html                   text        NOT NULL,
  attempts               integer     NOT NULL DEFAULT 0,
  time_created           timestamptz NOT NULL,
  -- when it is tried next; whoever tries puts it off first
  time_next              timestamptz NOT NULL,
  -- it is not tried any more
  time_given_up          timestamptz,
  last_error             text
);
CREATE INDEX mail_next ON mail (time_next) WHERE time_given_up IS NULL;

-- Of rate-limiter-flexible, which has its form: how often something was tried that is counted across replicas.
CREATE TABLE rate_limit (
  key                    varchar(255) PRIMARY KEY,
  points                 integer     NOT NULL DEFAULT 0,
  -- ms since 1970
  expire                 bigint
);
CREATE INDEX rate_limit_end ON rate_limit (expire);
