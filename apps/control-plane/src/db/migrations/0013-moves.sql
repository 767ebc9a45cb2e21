-- Sandboxes that are moved to another host.

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
