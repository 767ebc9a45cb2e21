-- Templates that builds make: names, tags, builds with their logs.

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
