-- Who did what, so that nobody can take it back; what sandboxes used, and for how long.

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
