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
];
