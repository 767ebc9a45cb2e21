-- Teams: whose everything is. What there was before belongs to the first one.

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
