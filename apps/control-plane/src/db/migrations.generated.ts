// Generated from migrations/*.sql by `npm run generate`. Do not edit.
export const migrations: readonly { readonly number: number; readonly name: string; readonly sql: string }[] = [
  {
    number: 1,
    name: "initial",
    sql: `-- Sandboxes, hosts, templates and API keys.
-- Same SQL on PostgreSQL 15 and newer and on PGlite. Instants are written by the control plane, in milliseconds.

CREATE TABLE host (
  id                text        PRIMARY KEY,
  -- what the host said of itself when it was last asked (HostInfo), for when it cannot be asked
  info              jsonb       NOT NULL,
  time_created      timestamptz NOT NULL,
  time_last_seen    timestamptz NOT NULL
);

CREATE TABLE template (
  host_id           text        NOT NULL REFERENCES host (id) ON DELETE CASCADE,
  name              text        NOT NULL,
  digest            text        NOT NULL,
  disk_size_mib     integer     NOT NULL CHECK (disk_size_mib > 0),
  PRIMARY KEY (host_id, name)
);

CREATE TABLE sandbox (
  id                    text        PRIMARY KEY CHECK (id ~ '^[a-z0-9]{1,40}$'),
  -- no foreign key: a sandbox outlives what is known of its host
  host_id               text        NOT NULL,
  template              text        NOT NULL,
  vcpus                 integer     NOT NULL CHECK (vcpus > 0),
  memory_mib            integer     NOT NULL CHECK (memory_mib > 0),
  disk_size_mib         integer     NOT NULL CHECK (disk_size_mib >= 0),
  timeout_sec           integer     NOT NULL CHECK (timeout_sec >= 0),
  metadata              jsonb       NOT NULL DEFAULT '{}',
  -- what the guest agent asks of callers; empty once the sandbox has stopped
  access_token          text        NOT NULL,
  state                 text        NOT NULL CHECK (state IN
                          ('creating', 'running', 'pausing', 'paused', 'resuming', 'snapshotting', 'stopping', 'stopped', 'failed')),
  -- the host agent's change counter; only what is newer is applied
  generation            bigint      NOT NULL CHECK (generation >= 0),
  failure_reason        text,
  stop_reason           text,
  vm_exit               jsonb,
  versions              jsonb       NOT NULL DEFAULT '{}',
  time_created          timestamptz NOT NULL,
  time_started          timestamptz,
  time_last_active      timestamptz NOT NULL,
  time_stopped          timestamptz,
  time_state_updated    timestamptz NOT NULL,
  -- somebody asked for its end; the reconciler sees to it however often it takes
  time_delete_requested timestamptz,
  -- its host did not know it any more; taken back when the host shows it again
  time_lost             timestamptz,
  CONSTRAINT failure_reason_iff_failed CHECK ((state = 'failed') = (failure_reason IS NOT NULL)),
  CONSTRAINT time_stopped_iff_stopped CHECK ((state = 'stopped') = (time_stopped IS NOT NULL)),
  CONSTRAINT no_access_token_when_stopped CHECK (state <> 'stopped' OR access_token = ''),
  CONSTRAINT lost_is_failed CHECK (time_lost IS NULL OR state = 'failed')
);

CREATE INDEX sandbox_newest ON sandbox (time_created DESC, id DESC);
CREATE INDEX sandbox_of_host ON sandbox (host_id) WHERE state <> 'stopped';
CREATE INDEX sandbox_stopped ON sandbox (time_stopped) WHERE state = 'stopped';

CREATE TABLE api_key (
  id                text        PRIMARY KEY,
  name              text        NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
  -- SHA-256 of the key's hex digits, so that both prefixes of a key are the same key
  hash              bytea       NOT NULL UNIQUE CHECK (length(hash) = 32),
  -- first digits, to tell keys apart in a list
  prefix            text        NOT NULL,
  time_created      timestamptz NOT NULL,
  time_last_used    timestamptz,
  time_revoked      timestamptz
);
`,
  },
  {
    number: 2,
    name: "saved-sandboxes",
    sql: `-- Pause, resume, generations, snapshots, events.

ALTER TABLE sandbox
  -- a request that needs the guest of the paused sandbox resumes it; the control plane's own, hosts do not know it
  ADD COLUMN auto_resume             boolean     NOT NULL DEFAULT false,
  ADD COLUMN checkpoint_interval_sec integer     NOT NULL DEFAULT 0 CHECK (checkpoint_interval_sec >= 0),
  -- what served its last start
  ADD COLUMN start_path              text,
  -- the generation that a resume goes back to, and whether that has memory
  ADD COLUMN current_generation      integer     CHECK (current_generation > 0),
  ADD COLUMN has_memory              boolean     NOT NULL DEFAULT false,
  ADD COLUMN time_paused             timestamptz,
  ADD COLUMN notice                  text;

ALTER TABLE template
  ADD COLUMN kind                    text        NOT NULL DEFAULT 'base' CHECK (kind IN ('base', 'snapshot')),
  ADD COLUMN has_memory              boolean     NOT NULL DEFAULT false,
  -- sizes of every sandbox from it; 0 means any
  ADD COLUMN vcpus                   integer     NOT NULL DEFAULT 0 CHECK (vcpus >= 0),
  ADD COLUMN memory_mib              integer     NOT NULL DEFAULT 0 CHECK (memory_mib >= 0);

CREATE TABLE event (
  -- its host's id for it: a host may tell the same event twice
  id                text        PRIMARY KEY,
  -- in the order they were heard of; also what makes a page's end exact
  number            bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
  host_id           text        NOT NULL,
  time_created      timestamptz NOT NULL,
  kind              text        NOT NULL,
  -- no foreign keys: events outlive what they tell of
  sandbox_id        text,
  template          text,
  message           text        NOT NULL,
  detail            jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX event_newest ON event (time_created DESC, number DESC);
CREATE INDEX event_of_sandbox ON event (sandbox_id, time_created DESC, number DESC) WHERE sandbox_id IS NOT NULL;
`,
  },
  {
    number: 3,
    name: "e2b",
    sql: `-- An end that does not move by itself, and what the E2B API keeps of a sandbox. Hosts know nothing of the end.

ALTER TABLE sandbox
  -- what was last asked, in s; 0 means none
  ADD COLUMN expiry_sec              integer     NOT NULL DEFAULT 0 CHECK (expiry_sec >= 0),
  -- when it ends or is paused; null: never, or it does not run. In the past: its time is up, whatever its state still says
  ADD COLUMN time_expires            timestamptz,
  ADD COLUMN expiry_action           text        NOT NULL DEFAULT 'delete' CHECK (expiry_action IN ('delete', 'pause')),
  -- whether a pause at that time keeps memory
  ADD COLUMN expiry_memory           boolean     NOT NULL DEFAULT true,
  -- whether callers of the guest agent need the access token
  ADD COLUMN is_secure               boolean     NOT NULL DEFAULT true,
  -- NetworkPolicy; what is missing has its default
  ADD COLUMN network                 jsonb       NOT NULL DEFAULT '{}',
  -- what opens its ports when they are not public; null: nothing does
  ADD COLUMN traffic_token           text;

CREATE INDEX sandbox_expiry ON sandbox (time_expires) WHERE time_expires IS NOT NULL;
CREATE INDEX sandbox_started ON sandbox (time_started DESC, id DESC) WHERE state <> 'stopped';
`,
  },
  {
    number: 4,
    name: "templates",
    sql: `-- Templates that builds make: names, tags, builds with their logs.

CREATE TABLE built_template (
  -- a t and 20 random characters
  id                  text        PRIMARY KEY,
  name                text        NOT NULL UNIQUE,
  is_public           boolean     NOT NULL DEFAULT false,
  time_created        timestamptz NOT NULL,
  time_updated        timestamptz NOT NULL
);

CREATE TABLE build (
  id                  uuid        PRIMARY KEY,
  template_id         text        NOT NULL REFERENCES built_template (id) ON DELETE CASCADE,
  state               text        NOT NULL CHECK (state IN ('waiting', 'building', 'ready', 'failed', 'cancelled')),
  -- counts its changes; every write names the one it is based on
  generation          bigint      NOT NULL DEFAULT 1,
  -- set when it is ready, each for this build
  tags                jsonb       NOT NULL,
  -- Recipe (packages/contract/src/recipes.ts), without credentials; null: not said yet
  recipe              jsonb,
  vcpus               integer     NOT NULL CHECK (vcpus > 0),
  memory_mib          integer     NOT NULL CHECK (memory_mib > 0),
  step_count          integer     NOT NULL DEFAULT 0 CHECK (step_count >= 0),
  -- how many of them are done, and how many of those came from the cache
  steps_done          integer     NOT NULL DEFAULT 0 CHECK (steps_done >= 0),
  steps_cached        integer     NOT NULL DEFAULT 0 CHECK (steps_cached >= 0),
  host_id             text,
  -- its template on the host
  host_template       text,
  size_bytes          bigint,
  -- what it failed of: {"message", "step"}
  failure             jsonb,
  -- the control plane that works at it has until then to say so again
  claimed_by          text,
  time_claim_ends     timestamptz,
  time_cancel_requested timestamptz,
  log_count           integer     NOT NULL DEFAULT 0 CHECK (log_count >= 0),
  time_created        timestamptz NOT NULL,
  time_started        timestamptz,
  time_ended          timestamptz,
  CONSTRAINT ended_iff_time CHECK ((state IN ('ready', 'failed', 'cancelled')) = (time_ended IS NOT NULL)),
  CONSTRAINT ready_has_template CHECK (state <> 'ready' OR host_template IS NOT NULL),
  CONSTRAINT failure_iff_failed CHECK ((state = 'failed') = (failure IS NOT NULL))
);
CREATE INDEX build_newest ON build (time_created DESC, id DESC);
CREATE INDEX build_of_template ON build (template_id, time_created DESC, id DESC);
CREATE INDEX build_open ON build (time_created) WHERE state IN ('waiting', 'building');

CREATE TABLE template_tag (
  template_id         text        NOT NULL REFERENCES built_template (id) ON DELETE CASCADE,
  tag                 text        NOT NULL,
  build_id            uuid        NOT NULL REFERENCES build (id) ON DELETE CASCADE,
  time_created        timestamptz NOT NULL,
  PRIMARY KEY (template_id, tag)
);

CREATE TABLE build_log (
  build_id            uuid        NOT NULL REFERENCES build (id) ON DELETE CASCADE,
  -- from 0, without gaps
  number              integer     NOT NULL CHECK (number >= 0),
  time_created        timestamptz NOT NULL,
  level               text        NOT NULL CHECK (level IN ('debug', 'info', 'warn', 'error')),
  step                text,
  message             text        NOT NULL,
  PRIMARY KEY (build_id, number)
);

-- Templates that hosts still have and are to delete: written with what makes them superfluous, so that no crash leaves one behind
CREATE TABLE template_removal (
  -- on hosts
  name                text        PRIMARY KEY,
  time_created        timestamptz NOT NULL
);

ALTER TABLE sandbox
  -- the build that made its template; null: a base template or snapshot
  ADD COLUMN template_build_id        uuid,
  -- the build it works for: nobody else sees it
  ADD COLUMN for_build_id             uuid;
CREATE INDEX sandbox_of_template_build ON sandbox (template_build_id) WHERE template_build_id IS NOT NULL AND state <> 'stopped';
CREATE INDEX sandbox_for_build ON sandbox (for_build_id) WHERE for_build_id IS NOT NULL AND state <> 'stopped';

ALTER TABLE template DROP CONSTRAINT template_kind_check;
ALTER TABLE template ADD CONSTRAINT template_kind_check CHECK (kind IN ('base', 'snapshot', 'image', 'step', 'build'));
`,
  },
  {
    number: 5,
    name: "build-results",
    sql: `-- A build whose every step and end were done before takes over what that made; one that goes on after a restart has what was fetched for it.

ALTER TABLE build
  -- hash of all that its template follows from; null: it cannot be taken over
  ADD COLUMN result_key text,
  -- what its images became on its host: source as JSON -> BuildSource
  ADD COLUMN sources    jsonb NOT NULL DEFAULT '{}';
CREATE INDEX build_result ON build (result_key, time_ended DESC) WHERE state = 'ready' AND result_key IS NOT NULL;
`,
  },
  {
    number: 6,
    name: "teams",
    sql: `-- Teams: whose everything is. What there was before belongs to the first one.

CREATE TABLE team (
  -- a g and 20 random characters; the first team is 'default'
  id                text        PRIMARY KEY CHECK (id ~ '^(default|g[a-z0-9]{20})$'),
  name              text        NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
  -- the namespace of its public templates
  slug              text        NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
  -- TeamQuota (packages/contract/src/teams.ts); what is missing or null is unlimited
  quota             jsonb       NOT NULL DEFAULT '{}',
  time_created      timestamptz NOT NULL,
  -- it is no more: nobody acts for it, and what it had is being removed
  time_deleted      timestamptz,
  -- counts its changes; every write names the one it is based on
  generation        bigint      NOT NULL DEFAULT 1
);
INSERT INTO team (id, name, slug, time_created) VALUES ('default', 'default', 'default', now());

ALTER TABLE sandbox ADD COLUMN team_id text NOT NULL DEFAULT 'default' REFERENCES team (id);
ALTER TABLE sandbox ALTER COLUMN team_id DROP DEFAULT;
DROP INDEX sandbox_newest;
DROP INDEX sandbox_started;
CREATE INDEX sandbox_newest ON sandbox (team_id, time_created DESC, id DESC);
CREATE INDEX sandbox_started ON sandbox (team_id, time_started DESC, id DESC) WHERE state <> 'stopped';

ALTER TABLE built_template ADD COLUMN team_id text NOT NULL DEFAULT 'default' REFERENCES team (id);
ALTER TABLE built_template ALTER COLUMN team_id DROP DEFAULT;
ALTER TABLE built_template DROP CONSTRAINT built_template_name_key;
ALTER TABLE built_template ADD CONSTRAINT built_template_name_of_team UNIQUE (team_id, name);

-- that of its template, which keeps it
ALTER TABLE build ADD COLUMN team_id text NOT NULL DEFAULT 'default' REFERENCES team (id);
ALTER TABLE build ALTER COLUMN team_id DROP DEFAULT;
DROP INDEX build_newest;
CREATE INDEX build_newest ON build (team_id, time_created DESC, id DESC);

ALTER TABLE api_key
  ADD COLUMN team_id      text        NOT NULL DEFAULT 'default' REFERENCES team (id),
  -- what it may do; null: all that a member of its team may
  ADD COLUMN scopes       jsonb,
  -- it may administer the platform; a key from before there were teams could do everything, and still can
  ADD COLUMN is_admin     boolean     NOT NULL DEFAULT true,
  ADD COLUMN time_expires timestamptz,
  -- id of the user or key that made it; null: the platform
  ADD COLUMN created_by   text;
ALTER TABLE api_key ALTER COLUMN team_id DROP DEFAULT;
ALTER TABLE api_key ALTER COLUMN is_admin SET DEFAULT false;
CREATE INDEX api_key_of_team ON api_key (team_id, time_created);

-- null: it is a host's own, or about nothing that is anybody's
ALTER TABLE event ADD COLUMN team_id text REFERENCES team (id);
UPDATE event SET team_id = 'default' WHERE sandbox_id IS NOT NULL OR template IS NOT NULL;
DROP INDEX event_newest;
CREATE INDEX event_newest ON event (team_id, time_created DESC, number DESC);

-- Templates made of sandboxes. Their names are their team's; hosts know them by others, as they do builds.
CREATE TABLE snapshot (
  id                uuid        PRIMARY KEY,
  team_id           text        NOT NULL REFERENCES team (id),
  name              text        NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
  -- recorded before its host makes it; 'abandoned': nobody waits for it any more, but its host may yet make it. What does not become ready is removed
  state             text        NOT NULL CHECK (state IN ('creating', 'ready', 'abandoned')),
  -- no foreign key: a snapshot outlives what is known of its host
  host_id           text        NOT NULL,
  -- its name there; of one from before this table, its own
  host_template     text        NOT NULL UNIQUE,
  digest            text        NOT NULL,
  has_memory        boolean     NOT NULL,
  -- sizes of every sandbox from it; 0 means any
  vcpus             integer     NOT NULL CHECK (vcpus >= 0),
  memory_mib        integer     NOT NULL CHECK (memory_mib >= 0),
  disk_size_mib     integer     NOT NULL CHECK (disk_size_mib >= 0),
  size_bytes        bigint      NOT NULL CHECK (size_bytes >= 0),
  source_sandbox_id text,
  time_created      timestamptz NOT NULL
);
CREATE UNIQUE INDEX snapshot_name_of_team ON snapshot (team_id, name) WHERE state = 'ready';
CREATE INDEX snapshot_unready ON snapshot (time_created) WHERE state <> 'ready';

ALTER TABLE sandbox
  -- the snapshot it was made from; null: something else
  ADD COLUMN template_snapshot_id uuid;
CREATE INDEX sandbox_of_snapshot ON sandbox (template_snapshot_id) WHERE template_snapshot_id IS NOT NULL AND state <> 'stopped';
`,
  },
  {
    number: 7,
    name: "accounts",
    sql: `-- People: accounts, sessions, who is in which team, and the mails that tell them.

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
`,
  },
  {
    number: 8,
    name: "hosts",
    sql: `-- Hosts that register, are leased by heartbeat, and are cordoned, drained and deleted.

-- what it says of itself is in columns of its own now, and comes with the next heartbeat
ALTER TABLE host DROP COLUMN info;
ALTER TABLE host ALTER COLUMN time_last_seen DROP NOT NULL;
ALTER TABLE host
  -- for people
  ADD COLUMN name                     text        NOT NULL DEFAULT 'local' CHECK (length(name) BETWEEN 1 AND 64),
  -- as the operator wants it; that it is unreachable follows from its lease
  ADD COLUMN state                    text        NOT NULL DEFAULT 'ready' CHECK (state IN ('pending', 'ready', 'cordoned', 'draining')),
  -- counts changes by operators and registrations; a write that is based on an older one changes nothing
  ADD COLUMN generation               bigint      NOT NULL DEFAULT 1,
  -- null: all teams'
  ADD COLUMN team_id                  text        REFERENCES team (id),
  ADD COLUMN tags                     jsonb       NOT NULL DEFAULT '[]',
  -- host:port; null: not registered yet, or joined inside the control plane's process
  ADD COLUMN address                  text,
  -- until then it counts as reachable; null: never heard of
  ADD COLUMN time_lease_ends          timestamptz,
  -- since when it is known to everybody that its lease ended; null: it has not, or nobody has told yet
  ADD COLUMN time_unreachable         timestamptz,
  -- capacity, as it said last; the rest of what it is (HostDescription), how it does (HostLoad, HostHealth)
  ADD COLUMN cpu_count                integer     CHECK (cpu_count > 0),
  ADD COLUMN memory_mib               integer     CHECK (memory_mib >= 0),
  ADD COLUMN disk_mib                 bigint      CHECK (disk_mib >= 0),
  ADD COLUMN description              jsonb,
  ADD COLUMN load                     jsonb,
  ADD COLUMN health                   jsonb,
  -- its clock less ours
  ADD COLUMN clock_offset_ms          bigint,
  -- SHA-256 of the certificate issued last, and of the one before it; hex
  ADD COLUMN certificate_fingerprint  text        CHECK (certificate_fingerprint ~ '^[0-9a-f]{64}$'),
  ADD COLUMN time_certificate_issued  timestamptz,
  ADD COLUMN time_certificate_expires timestamptz,
  -- when it was first used: the answer that carried it may have been lost
  ADD COLUMN time_certificate_used    timestamptz,
  ADD COLUMN previous_fingerprint     text        CHECK (previous_fingerprint ~ '^[0-9a-f]{64}$'),
  ADD COLUMN drain_mode               text        CHECK (drain_mode IN ('pause', 'wait')),
  ADD COLUMN time_drain_started       timestamptz,
  ADD COLUMN time_drained             timestamptz,
  -- why a sandbox could not be paused
  ADD COLUMN drain_problem            text,
  -- the control plane that works at it, and until when it is the one
  ADD COLUMN drain_claimed_by         text,
  ADD COLUMN time_drain_claim_ends    timestamptz,
  ADD CONSTRAINT draining_has_mode CHECK ((state = 'draining') = (drain_mode IS NOT NULL) AND (state = 'draining') = (time_drain_started IS NOT NULL)),
  ADD CONSTRAINT drained_is_draining CHECK (time_drained IS NULL OR state = 'draining'),
  ADD CONSTRAINT pending_has_no_address CHECK (state <> 'pending' OR address IS NULL),
  ADD CONSTRAINT certificate_whole CHECK (
    (certificate_fingerprint IS NULL) = (time_certificate_issued IS NULL) AND (certificate_fingerprint IS NULL) = (time_certificate_expires IS NULL)
  );
UPDATE host SET name = id;
ALTER TABLE host ALTER COLUMN name DROP DEFAULT;
ALTER TABLE host ALTER COLUMN state DROP DEFAULT;
CREATE UNIQUE INDEX host_name ON host (lower(name));

CREATE TABLE host_registration (
  -- SHA-256 of the token's secret
  token_hash        bytea       PRIMARY KEY CHECK (length(token_hash) = 32),
  host_id           text        NOT NULL REFERENCES host (id) ON DELETE CASCADE,
  time_created      timestamptz NOT NULL,
  time_expires      timestamptz NOT NULL,
  time_used         timestamptz,
  -- SHA-256 of the public key it was used with, and what was answered: the same again, should that answer have been lost
  key_hash          bytea       CHECK (length(key_hash) = 32),
  certificate_pem   text,
  CONSTRAINT used_is_whole CHECK ((time_used IS NULL) = (key_hash IS NULL) AND (time_used IS NULL) = (certificate_pem IS NULL))
);
CREATE INDEX host_registration_of_host ON host_registration (host_id);

-- Who signs the certificates of hosts and control planes: one for the installation.
CREATE TABLE certificate_authority (
  id                smallint    PRIMARY KEY CHECK (id = 1),
  certificate_pem   text        NOT NULL,
  -- PKCS 8, sealed with the installation's secret key
  sealed_key        bytea       NOT NULL,
  time_created      timestamptz NOT NULL
);
`,
  },
  {
    number: 9,
    name: "operations",
    sql: `-- Operations: pieces of work that survive who does them. Reservations: what sandboxes take of their hosts and teams.

CREATE TABLE operation (
  id                uuid        PRIMARY KEY,
  team_id           text        NOT NULL REFERENCES team (id),
  kind              text        NOT NULL,
  -- of the native API, as its table names it; null: the platform's own, or asked through another API
  endpoint          text,
  -- what its caller named it by; null: nothing, or whoever repeats it now is to begin anew
  idempotency_key   text        CHECK (length(idempotency_key) BETWEEN 1 AND 255),
  -- SHA-256 of what was asked, so that another request with the same key is noticed
  request_hash      bytea,
  -- what it is about
  subject_kind      text        NOT NULL,
  subject_id        text        NOT NULL,
  -- ids of the sandboxes that it makes
  made              jsonb       NOT NULL DEFAULT '[]',
  state             text        NOT NULL CHECK (state IN ('running', 'succeeded', 'failed')),
  -- what was last done of it
  step              text        NOT NULL,
  -- the answer as it was given: {"status", "body"}; null: none was kept
  result            jsonb,
  -- what it failed of: {"code", "message"}
  failure           jsonb,
  -- the control plane that works at it has until then to say so again
  claimed_by        text,
  time_claim_ends   timestamptz,
  -- counts its changes of hands; who has an older one has lost it
  generation        bigint      NOT NULL DEFAULT 1,
  time_created      timestamptz NOT NULL,
  time_ended        timestamptz,
  CONSTRAINT operation_ended_iff_time CHECK ((state = 'running') = (time_ended IS NULL)),
  CONSTRAINT operation_failure_iff_failed CHECK ((state = 'failed') = (failure IS NOT NULL)),
  CONSTRAINT operation_key_has_hash CHECK (idempotency_key IS NULL OR (request_hash IS NOT NULL AND endpoint IS NOT NULL)),
  CONSTRAINT operation_of_key UNIQUE (team_id, endpoint, idempotency_key)
);
CREATE INDEX operation_running ON operation (time_claim_ends) WHERE state = 'running';
CREATE INDEX operation_ended ON operation (time_ended) WHERE state <> 'running';
CREATE INDEX operation_of_subject ON operation (team_id, subject_id, time_created DESC, id DESC);
CREATE INDEX operation_made ON operation USING gin (made);

CREATE TABLE reservation (
  sandbox_id        text        PRIMARY KEY REFERENCES sandbox (id) ON DELETE CASCADE,
  host_id           text        NOT NULL,
  -- whose quota it counts against; null: nobody's (sandboxes of builds)
  team_id           text,
  vcpus             integer     NOT NULL,
  memory_mib        integer     NOT NULL,
  disk_mib          integer     NOT NULL,
  -- 'running': all of that; 'paused': its disk only
  kind              text        NOT NULL CHECK (kind IN ('running', 'paused')),
  -- the operation that is about to start it: until that ends it holds all, whatever its host still says of it
  held_by           uuid,
  time_created      timestamptz NOT NULL,
  CONSTRAINT held_is_running CHECK (held_by IS NULL OR kind = 'running')
);
CREATE INDEX reservation_of_host ON reservation (host_id) INCLUDE (kind, vcpus, memory_mib, disk_mib);
CREATE INDEX reservation_of_team ON reservation (team_id) INCLUDE (kind, vcpus, memory_mib, disk_mib) WHERE team_id IS NOT NULL;
CREATE INDEX reservation_held ON reservation (held_by) WHERE held_by IS NOT NULL;

-- A reservation follows its sandbox's record, in the statement that changes that, whoever writes it: none can be forgotten.
CREATE FUNCTION settle_reservation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.state = 'stopped' THEN
    DELETE FROM reservation WHERE sandbox_id = NEW.id;
    RETURN NULL;
  END IF;
  INSERT INTO reservation AS present (sandbox_id, host_id, team_id, vcpus, memory_mib, disk_mib, kind, time_created)
  VALUES (
    NEW.id, NEW.host_id, CASE WHEN NEW.for_build_id IS NULL THEN NEW.team_id END, NEW.vcpus, NEW.memory_mib, NEW.disk_size_mib,
    reservation_kind(NEW.state, NEW.time_paused), NEW.time_state_updated
  )
  ON CONFLICT (sandbox_id) DO UPDATE SET
    host_id = excluded.host_id,
    vcpus = excluded.vcpus,
    memory_mib = excluded.memory_mib,
    disk_mib = excluded.disk_mib,
    kind = CASE WHEN present.held_by IS NULL THEN excluded.kind ELSE 'running' END;
  RETURN NULL;
END $$;

-- A saved sandbox has no VM; a failed one has its disk.
CREATE FUNCTION reservation_kind(state text, time_paused timestamptz) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN state IN ('paused', 'failed') OR (state = 'snapshotting' AND time_paused IS NOT NULL) THEN 'paused' ELSE 'running' END
$$;

CREATE TRIGGER reservation_of_new_sandbox AFTER INSERT ON sandbox
  FOR EACH ROW EXECUTE FUNCTION settle_reservation();
CREATE TRIGGER reservation_of_sandbox AFTER UPDATE ON sandbox FOR EACH ROW
  WHEN ((OLD.state, OLD.host_id, OLD.vcpus, OLD.memory_mib, OLD.disk_size_mib, OLD.time_paused)
    IS DISTINCT FROM (NEW.state, NEW.host_id, NEW.vcpus, NEW.memory_mib, NEW.disk_size_mib, NEW.time_paused))
  EXECUTE FUNCTION settle_reservation();

INSERT INTO reservation (sandbox_id, host_id, team_id, vcpus, memory_mib, disk_mib, kind, time_created)
  SELECT id, host_id, CASE WHEN for_build_id IS NULL THEN team_id END, vcpus, memory_mib, disk_size_mib,
    reservation_kind(state, time_paused), time_state_updated
  FROM sandbox WHERE state <> 'stopped';

-- Sandboxes on hosts that nothing here explains: ended when they have been seen for a while.
CREATE TABLE stray (
  host_id           text        NOT NULL,
  sandbox_id        text        NOT NULL,
  time_first_seen   timestamptz NOT NULL,
  PRIMARY KEY (host_id, sandbox_id)
);
`,
  },
  {
    number: 10,
    name: "channels",
    sql: `-- Events in one order that nothing overtakes, and the channels that they are sent to.

ALTER TABLE event
  -- events outlive what they tell of
  DROP CONSTRAINT event_team_id_fkey,
  ALTER COLUMN host_id DROP NOT NULL,
  -- what it is about
  ADD COLUMN subject_kind       text        NOT NULL DEFAULT 'host'
    CHECK (subject_kind IN ('sandbox', 'template', 'build', 'snapshot', 'host', 'team', 'api_key')),
  ADD COLUMN subject_id         text        NOT NULL DEFAULT '',
  -- EventActor: who did it
  ADD COLUMN actor              jsonb       NOT NULL DEFAULT '{"kind": "system", "id": "system", "name": "Roost"}',
  -- Its place in the stream. Given when it is published, by one publisher at a time, so that whoever has seen a position has seen all before it:
  -- 'number' is drawn before the commit, and a lower one may become visible after a higher one. null: not published yet
  ADD COLUMN position           bigint      UNIQUE;
UPDATE event SET
  subject_kind = CASE WHEN sandbox_id IS NOT NULL THEN 'sandbox' WHEN template IS NOT NULL THEN 'template' ELSE 'host' END,
  subject_id = coalesce(sandbox_id, template, host_id),
  actor = jsonb_build_object('kind', 'host', 'id', host_id, 'name', host_id),
  position = number;
ALTER TABLE event
  ALTER COLUMN subject_kind DROP DEFAULT,
  ALTER COLUMN subject_id DROP DEFAULT,
  ALTER COLUMN actor DROP DEFAULT;
CREATE INDEX event_unpublished ON event (number) WHERE position IS NULL;
CREATE INDEX event_of_team ON event (team_id, position);

-- One row. Its lock is what makes publishers take turns.
CREATE TABLE event_stream (
  is_only           boolean     PRIMARY KEY CHECK (is_only),
  -- of the newest published event
  position          bigint      NOT NULL
);
INSERT INTO event_stream (is_only, position) SELECT true, coalesce(max(number), 0) FROM event;

-- Up to where events were forgotten, so that who resumes before that is told that there is a gap. Team '': those that are nobody's
CREATE TABLE event_forgotten (
  team_id           text        PRIMARY KEY,
  position          bigint      NOT NULL
);

CREATE TABLE channel (
  -- a c and 20 random characters
  id                text        PRIMARY KEY CHECK (id ~ '^c[a-z0-9]{20}$'),
  team_id           text        NOT NULL REFERENCES team (id),
  name              text        NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
  kind              text        NOT NULL CHECK (kind IN ('webhook', 'slack', 'discord', 'telegram', 'teams', 'googlechat', 'matrix')),
  -- ChannelConfig, sealed: addresses and tokens are passwords
  config            bytea       NOT NULL,
  -- where it leads, as far as it may be shown: scheme and host
  destination       text        NOT NULL,
  -- kinds of events, or 'sandbox.*'; empty: all
  kinds             jsonb       NOT NULL,
  -- also events that are no team's
  platform_events   boolean     NOT NULL,
  is_enabled        boolean     NOT NULL,
  -- tries in a row that failed, since when, and when the next one may be made at the earliest
  failures          integer     NOT NULL DEFAULT 0,
  time_failing      timestamptz,
  time_next         timestamptz,
  time_created      timestamptz NOT NULL,
  time_updated      timestamptz NOT NULL,
  generation        bigint      NOT NULL DEFAULT 1,
  CONSTRAINT channel_name_of_team UNIQUE (team_id, name),
  CONSTRAINT time_failing_iff_failures CHECK ((failures > 0) = (time_failing IS NOT NULL))
);

-- One event on its way to one channel.
CREATE TABLE delivery (
  -- what the receiver knows it by: the same at each try
  id                uuid        PRIMARY KEY,
  channel_id        text        NOT NULL REFERENCES channel (id) ON DELETE CASCADE,
  event_id          text        NOT NULL REFERENCES event (id) ON DELETE CASCADE,
  -- the event's
  position          bigint      NOT NULL,
  -- the event's subject: of those of one channel and subject, one is sent after the other
  subject           text        NOT NULL,
  state             text        NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
  attempts          integer     NOT NULL DEFAULT 0,
  -- when it is to be tried (again)
  time_next         timestamptz NOT NULL,
  -- a try is under way, and whose; another may begin when the lease has ended
  lease_token       uuid,
  time_lease_ends   timestamptz,
  -- why the last try failed
  last_error        text,
  last_status       integer,
  time_created      timestamptz NOT NULL,
  -- no try begins after it
  time_expires      timestamptz NOT NULL,
  time_ended        timestamptz,
  UNIQUE (channel_id, event_id),
  CONSTRAINT time_ended_iff_ended CHECK ((state = 'pending') = (time_ended IS NULL)),
  CONSTRAINT lease_is_whole CHECK ((lease_token IS NULL) = (time_lease_ends IS NULL)),
  CONSTRAINT only_pending_is_leased CHECK (state = 'pending' OR lease_token IS NULL)
);
CREATE INDEX delivery_due ON delivery (time_next) WHERE state = 'pending';
CREATE INDEX delivery_waiting ON delivery (channel_id, position) WHERE state = 'pending';
CREATE INDEX delivery_leased ON delivery (channel_id) WHERE lease_token IS NOT NULL;
CREATE INDEX delivery_turn ON delivery (channel_id, subject, position) WHERE state = 'pending';
CREATE INDEX delivery_newest ON delivery (channel_id, position DESC);
CREATE INDEX delivery_of_event ON delivery (event_id);
CREATE INDEX delivery_ended ON delivery (time_ended) WHERE state <> 'pending';
`,
  },
  {
    number: 11,
    name: "audit-usage",
    sql: `-- Who did what, so that nobody can take it back; what sandboxes used, and for how long.

-- One chain for each team and one for the platform: every entry has the hash of the one before
CREATE TABLE audit_entry (
  -- id of the team, or 'platform'. No foreign key: what was done outlives who did it
  chain             text        NOT NULL,
  -- from 1, without gaps
  number            bigint      NOT NULL CHECK (number > 0),
  time_created      timestamptz NOT NULL,
  actor_kind        text        NOT NULL CHECK (actor_kind IN ('api_key', 'user', 'host', 'system')),
  actor_id          text        NOT NULL,
  actor_name        text        NOT NULL,
  action            text        NOT NULL,
  resource_kind     text        NOT NULL,
  resource_id       text,
  scope             text        NOT NULL CHECK (scope IN ('team', 'admin')),
  status            text        NOT NULL CHECK (status IN ('success', 'failure')),
  request_id        text        NOT NULL,
  address           text,
  detail            jsonb       NOT NULL,
  previous_hash     text        NOT NULL CHECK (length(previous_hash) = 64),
  -- SHA-256, hex, of all of the above (audit/entry-hash.ts)
  hash              text        NOT NULL CHECK (length(hash) = 64),
  PRIMARY KEY (chain, number)
);
CREATE INDEX audit_entry_newest ON audit_entry (chain, time_created DESC, number DESC);

-- Where each chain ends, so that an end that was cut off is missed; and where it begins, once old entries have been removed
CREATE TABLE audit_head (
  chain             text        PRIMARY KEY,
  number            bigint      NOT NULL CHECK (number >= 0),
  hash              text        NOT NULL CHECK (length(hash) = 64),
  kept_from         bigint      NOT NULL DEFAULT 1 CHECK (kept_from BETWEEN 1 AND number + 1),
  -- hash of the last entry that was removed; zeros: none was
  removed_hash      text        NOT NULL DEFAULT repeat('0', 64) CHECK (length(removed_hash) = 64)
);

-- How long each sandbox ran or was paused. Usage is computed from these, so it is exact for one that lived a second
CREATE TABLE sandbox_interval (
  -- no foreign key: it outlives the sandbox's record
  sandbox_id        text        NOT NULL,
  time_started      timestamptz NOT NULL,
  -- null: it still is
  time_ended        timestamptz,
  team_id           text        NOT NULL,
  state             text        NOT NULL CHECK (state IN ('running', 'paused')),
  template          text        NOT NULL,
  vcpus             integer     NOT NULL,
  memory_mib        integer     NOT NULL,
  disk_size_mib     integer     NOT NULL,
  -- it worked for a build
  is_build          boolean     NOT NULL,
  PRIMARY KEY (sandbox_id, time_started),
  CONSTRAINT ends_after_start CHECK (time_ended IS NULL OR time_ended > time_started)
);
CREATE UNIQUE INDEX sandbox_interval_open ON sandbox_interval (sandbox_id) WHERE time_ended IS NULL;
CREATE INDEX sandbox_interval_of_team ON sandbox_interval (team_id, time_ended);

-- Follows every write of a sandbox's state, whoever makes it, in its transaction: nothing can be forgotten, and replicas cannot count twice, because
-- the sandbox's row is locked. When a start or pause happened the host says; it is believed, unless it says that it is yet to come.
CREATE FUNCTION follow_sandbox_interval() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  latest sandbox_interval;
  phase text := CASE WHEN NEW.state IN ('running', 'paused') THEN NEW.state ELSE 'ended' END;
  instant timestamptz := NEW.time_state_updated;
BEGIN
  SELECT * INTO latest FROM sandbox_interval WHERE sandbox_id = NEW.id ORDER BY time_started DESC LIMIT 1;
  IF phase = 'ended' THEN
    DELETE FROM sandbox_interval WHERE sandbox_id = NEW.id AND time_ended IS NULL AND time_started >= instant;
    UPDATE sandbox_interval SET time_ended = instant WHERE sandbox_id = NEW.id AND time_ended IS NULL;
    RETURN NULL;
  END IF;
  instant := least(instant, CASE phase WHEN 'running' THEN NEW.time_started ELSE NEW.time_paused END);
  IF latest.state = phase AND instant <= latest.time_started THEN
    -- nothing new; or it had been taken for lost
    UPDATE sandbox_interval SET time_ended = NULL
     WHERE sandbox_id = NEW.id AND time_started = latest.time_started AND time_ended IS NOT NULL;
    RETURN NULL;
  END IF;
  IF instant <= latest.time_started THEN
    instant := greatest(NEW.time_state_updated, latest.time_started);
  END IF;
  IF instant = latest.time_started THEN
    UPDATE sandbox_interval SET state = phase, time_ended = NULL WHERE sandbox_id = NEW.id AND time_started = instant;
    RETURN NULL;
  END IF;
  UPDATE sandbox_interval SET time_ended = instant WHERE sandbox_id = NEW.id AND (time_ended IS NULL OR time_ended > instant);
  INSERT INTO sandbox_interval
    VALUES (NEW.id, instant, NULL, NEW.team_id, phase, NEW.template, NEW.vcpus, NEW.memory_mib, NEW.disk_size_mib, NEW.for_build_id IS NOT NULL);
  RETURN NULL;
END
$$;

-- In states between these a sandbox still holds what it held
CREATE TRIGGER sandbox_interval_of_new AFTER INSERT ON sandbox
  FOR EACH ROW WHEN (NEW.state IN ('running', 'paused')) EXECUTE FUNCTION follow_sandbox_interval();
CREATE TRIGGER sandbox_interval_of_change AFTER UPDATE ON sandbox
  FOR EACH ROW WHEN (NEW.state IN ('running', 'paused', 'stopped', 'failed') AND
    (OLD.state, OLD.time_started, OLD.time_paused) IS DISTINCT FROM (NEW.state, NEW.time_started, NEW.time_paused))
  EXECUTE FUNCTION follow_sandbox_interval();

-- What is known of those from before
INSERT INTO sandbox_interval
  SELECT id, coalesce(CASE state WHEN 'paused' THEN time_paused ELSE time_started END, time_state_updated), NULL,
         team_id, CASE state WHEN 'paused' THEN 'paused' ELSE 'running' END, template, vcpus, memory_mib, disk_size_mib, for_build_id IS NOT NULL
    FROM sandbox WHERE state IN ('running', 'pausing', 'snapshotting', 'paused');

-- Averages of what a sandbox used, in three tiers of steps; kept here because hosts keep only a day in memory
CREATE TABLE sandbox_metric (
  sandbox_id        text        NOT NULL,
  -- length of the step in s
  step_sec          integer     NOT NULL CHECK (step_sec IN (10, 60, 600)),
  -- begin of the step
  time_started      timestamptz NOT NULL,
  cpu_percent       real        NOT NULL,
  memory_bytes      bigint      NOT NULL,
  cache_bytes       bigint      NOT NULL,
  disk_bytes        bigint      NOT NULL,
  PRIMARY KEY (sandbox_id, step_sec, time_started)
);
CREATE INDEX sandbox_metric_old ON sandbox_metric (step_sec, time_started);

-- Up to when the metrics of a sandbox are in the table, and its sizes, for percentages
CREATE TABLE sandbox_metric_mark (
  sandbox_id        text        PRIMARY KEY,
  time_stored       timestamptz NOT NULL,
  memory_total_bytes bigint     NOT NULL,
  disk_total_bytes  bigint      NOT NULL,
  -- the control plane that collects them now has until then
  time_claim_ends   timestamptz NOT NULL
);
`,
  },
  {
    number: 12,
    name: "use-of-an-instant",
    sql: `-- As in 0011, but for a sandbox that was paused and resumed at the same instant: it was taken for paused until that was heard
CREATE OR REPLACE FUNCTION follow_sandbox_interval() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  latest sandbox_interval;
  phase text := CASE WHEN NEW.state IN ('running', 'paused') THEN NEW.state ELSE 'ended' END;
  instant timestamptz := NEW.time_state_updated;
BEGIN
  SELECT * INTO latest FROM sandbox_interval WHERE sandbox_id = NEW.id ORDER BY time_started DESC LIMIT 1;
  IF phase = 'ended' THEN
    DELETE FROM sandbox_interval WHERE sandbox_id = NEW.id AND time_ended IS NULL AND time_started >= instant;
    UPDATE sandbox_interval SET time_ended = instant WHERE sandbox_id = NEW.id AND time_ended IS NULL;
    RETURN NULL;
  END IF;
  instant := least(instant, CASE phase WHEN 'running' THEN NEW.time_started ELSE NEW.time_paused END);
  IF latest.state = phase AND instant <= latest.time_started THEN
    -- nothing new; or it had been taken for lost
    UPDATE sandbox_interval SET time_ended = NULL
     WHERE sandbox_id = NEW.id AND time_started = latest.time_started AND time_ended IS NOT NULL;
    RETURN NULL;
  END IF;
  IF instant < latest.time_started THEN
    instant := greatest(NEW.time_state_updated, latest.time_started);
  END IF;
  -- a pause and a resume within one ms: what was heard last holds from then on, not only since it was heard
  IF instant = latest.time_started THEN
    UPDATE sandbox_interval SET state = phase, time_ended = NULL WHERE sandbox_id = NEW.id AND time_started = instant;
    RETURN NULL;
  END IF;
  UPDATE sandbox_interval SET time_ended = instant WHERE sandbox_id = NEW.id AND (time_ended IS NULL OR time_ended > instant);
  INSERT INTO sandbox_interval
    VALUES (NEW.id, instant, NULL, NEW.team_id, phase, NEW.template, NEW.vcpus, NEW.memory_mib, NEW.disk_size_mib, NEW.for_build_id IS NOT NULL);
  RETURN NULL;
END
$$;
`,
  },
  {
    number: 13,
    name: "moves",
    sql: `-- Sandboxes that are moved to another host.

ALTER TABLE host DROP CONSTRAINT host_drain_mode_check;
ALTER TABLE host ADD CONSTRAINT host_drain_mode_check CHECK (drain_mode IN ('pause', 'wait', 'move'));

-- What its host must have been given, wherever it is moved to.
ALTER TABLE sandbox ADD COLUMN host_tags jsonb NOT NULL DEFAULT '[]';

CREATE TABLE sandbox_move (
  sandbox_id        text        PRIMARY KEY REFERENCES sandbox (id) ON DELETE CASCADE,
  -- by which both hosts know it; a new try has another one
  move_id           uuid        NOT NULL UNIQUE,
  from_host_id      text        NOT NULL,
  to_host_id        text        NOT NULL,
  -- 'copying': its record names the old host, and so it stays if this fails; 'moved': the new one, for good; 'undone': the old one, for good
  step              text        NOT NULL CHECK (step IN ('copying', 'moved', 'undone')),
  -- it ran before, so it runs again afterwards
  resumes           boolean     NOT NULL,
  -- when its time was up as it ran, and what it had been given: it has no more of it afterwards
  time_expires      timestamptz,
  expiry_sec        integer     NOT NULL,
  -- the control plane that works at it has until then to say so again
  claimed_by        text,
  time_claim_ends   timestamptz,
  -- why it was undone, for operators; it stays until it may be tried again
  problem           text,
  -- it is not worked at before
  time_next         timestamptz NOT NULL,
  time_started      timestamptz NOT NULL,
  CONSTRAINT moves_elsewhere CHECK (from_host_id <> to_host_id)
);
CREATE INDEX sandbox_move_to ON sandbox_move (to_host_id);

-- What hosts are to have room for: sandboxes that are theirs, and those that are on their way.
CREATE VIEW host_reservation AS
  SELECT host_id, kind, vcpus, memory_mib, disk_mib FROM reservation
  UNION ALL
  SELECT sandbox_move.to_host_id, CASE WHEN sandbox_move.resumes THEN 'running' ELSE 'paused' END, vcpus, memory_mib, disk_mib
  FROM sandbox_move JOIN reservation ON reservation.sandbox_id = sandbox_move.sandbox_id
  WHERE (sandbox_move.step = 'copying' AND reservation.host_id <> sandbox_move.to_host_id)
    OR (sandbox_move.step = 'moved' AND sandbox_move.resumes AND reservation.kind = 'paused');

-- Whose sandboxes were before they were moved, the last time: what hosts tell late of that time is heard.
CREATE TABLE sandbox_left (
  sandbox_id        text        NOT NULL REFERENCES sandbox (id) ON DELETE CASCADE,
  host_id           text        NOT NULL,
  time_left         timestamptz NOT NULL,
  PRIMARY KEY (sandbox_id, host_id)
);
`,
  },
  {
    number: 14,
    name: "ports",
    sql: `-- Who may reach the ports of a sandbox, where its network policy is not all there is to say.

ALTER TABLE sandbox
  -- port → private or public; * stands for all others. Empty: as the network policy says
  ADD COLUMN port_access             jsonb       NOT NULL DEFAULT '{}',
  -- part of what signs URLs of its ports: another number, and none of those before opens anything
  ADD COLUMN port_key_number         integer     NOT NULL DEFAULT 1;
`,
  },
  {
    number: 15,
    name: "network-revision",
    sql: `-- Which of two changes of a network policy came last, as the sandbox's host had them.

ALTER TABLE sandbox
  -- the revision of the sandbox on its host since which the recorded policy is in force
  ADD COLUMN network_revision        bigint      NOT NULL DEFAULT 0;
`,
  },
  {
    number: 16,
    name: "who-invited",
    sql: `-- Invitations that somebody made who may invite nobody any more are taken back.

ALTER TABLE invitation
  -- user or API key; null: from before this was kept
  ADD COLUMN invited_by_id           text;
`,
  },
];
