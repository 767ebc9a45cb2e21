-- Hosts that register, are leased by heartbeat, and are cordoned, drained and deleted.

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
