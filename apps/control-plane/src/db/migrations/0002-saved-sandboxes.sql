-- Pause, resume, generations, snapshots, events.

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
