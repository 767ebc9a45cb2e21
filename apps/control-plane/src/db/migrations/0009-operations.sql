-- Operations: pieces of work that survive who does them. Reservations: what sandboxes take of their hosts and teams.

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
