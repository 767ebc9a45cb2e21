-- An end that does not move by itself, and what the E2B API keeps of a sandbox. Hosts know nothing of the end.

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
