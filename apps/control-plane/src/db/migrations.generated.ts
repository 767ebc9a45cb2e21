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
];
