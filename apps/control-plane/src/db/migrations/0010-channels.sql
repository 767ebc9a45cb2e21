-- Events in one order that nothing overtakes, and the channels that they are sent to.

ALTER TABLE event
  -- events outlive what they tell of
  DROP CONSTRAINT event_team_id_fkey,
  ALTER COLUMN host_id DROP NOT NULL,
  -- what it is about
  ADD COLUMN subject_kind       text        NOT NULL DEFAULT 'host'
    CHECK (subject_kind IN ('sandbox', 'template', 'build', 'snapshot', 'host', 'team', 'api_key')),
  ADD COLUMN subject_id         text        NOT NULL DEFAULT '',
  -- EventActor: who did it
  ADD COLUMN actor              jsonb       NOT NULL DEFAULT '{"kind": "system", "id": "system", "name": "Roost"}',
  -- Its place in the stream. Given when it is published, by one publisher at a time, so that whoever has seen a position has seen all before it:
  -- 'number' is drawn before the commit, and a lower one may become visible after a higher one. null: not published yet
  ADD COLUMN position           bigint      UNIQUE;
UPDATE event SET
  subject_kind = CASE WHEN sandbox_id IS NOT NULL THEN 'sandbox' WHEN template IS NOT NULL THEN 'template' ELSE 'host' END,
  subject_id = coalesce(sandbox_id, template, host_id),
  actor = jsonb_build_object('kind', 'host', 'id', host_id, 'name', host_id),
  position = number;
ALTER TABLE event
  ALTER COLUMN subject_kind DROP DEFAULT,
  ALTER COLUMN subject_id DROP DEFAULT,
  ALTER COLUMN actor DROP DEFAULT;
CREATE INDEX event_unpublished ON event (number) WHERE position IS NULL;
CREATE INDEX event_of_team ON event (team_id, position);

-- One row. Its lock is what makes publishers take turns.
CREATE TABLE event_stream (
  is_only           boolean     PRIMARY KEY CHECK (is_only),
  -- of the newest published event
  position          bigint      NOT NULL
);
INSERT INTO event_stream (is_only, position) SELECT true, coalesce(max(number), 0) FROM event;

-- Up to where events were forgotten, so that who resumes before that is told that there is a gap. Team '': those that are nobody's
CREATE TABLE event_forgotten (
  team_id           text        PRIMARY KEY,
  position          bigint      NOT NULL
);

CREATE TABLE channel (
  -- a c and 20 random characters
  id                text        PRIMARY KEY CHECK (id ~ '^c[a-z0-9]{20}$'),
  team_id           text        NOT NULL REFERENCES team (id),
  name              text        NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
  kind              text        NOT NULL CHECK (kind IN ('webhook', 'slack', 'discord', 'telegram', 'teams', 'googlechat', 'matrix')),
  -- ChannelConfig, sealed: addresses and tokens are passwords
  config            bytea       NOT NULL,
  -- where it leads, as far as it may be shown: scheme and host
  destination       text        NOT NULL,
  -- kinds of events, or 'sandbox.*'; empty: all
  kinds             jsonb       NOT NULL,
  -- also events that are no team's
  platform_events   boolean     NOT NULL,
  is_enabled        boolean     NOT NULL,
  -- tries in a row that failed, since when, and when the next one may be made at the earliest
  failures          integer     NOT NULL DEFAULT 0,
  time_failing      timestamptz,
  time_next         timestamptz,
  time_created      timestamptz NOT NULL,
  time_updated      timestamptz NOT NULL,
  generation        bigint      NOT NULL DEFAULT 1,
  CONSTRAINT channel_name_of_team UNIQUE (team_id, name),
  CONSTRAINT time_failing_iff_failures CHECK ((failures > 0) = (time_failing IS NOT NULL))
);

-- One event on its way to one channel.
CREATE TABLE delivery (
  -- what the receiver knows it by: the same at each try
  id                uuid        PRIMARY KEY,
  channel_id        text        NOT NULL REFERENCES channel (id) ON DELETE CASCADE,
  event_id          text        NOT NULL REFERENCES event (id) ON DELETE CASCADE,
  -- the event's
  position          bigint      NOT NULL,
  -- the event's subject: of those of one channel and subject, one is sent after the other
  subject           text        NOT NULL,
  state             text        NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
  attempts          integer     NOT NULL DEFAULT 0,
  -- when it is to be tried (again)
  time_next         timestamptz NOT NULL,
  -- a try is under way, and whose; another may begin when the lease has ended
  lease_token       uuid,
  time_lease_ends   timestamptz,
  -- why the last try failed
  last_error        text,
  last_status       integer,
  time_created      timestamptz NOT NULL,
  -- no try begins after it
  time_expires      timestamptz NOT NULL,
  time_ended        timestamptz,
  UNIQUE (channel_id, event_id),
  CONSTRAINT time_ended_iff_ended CHECK ((state = 'pending') = (time_ended IS NULL)),
  CONSTRAINT lease_is_whole CHECK ((lease_token IS NULL) = (time_lease_ends IS NULL)),
  CONSTRAINT only_pending_is_leased CHECK (state = 'pending' OR lease_token IS NULL)
);
CREATE INDEX delivery_due ON delivery (time_next) WHERE state = 'pending';
CREATE INDEX delivery_waiting ON delivery (channel_id, position) WHERE state = 'pending';
CREATE INDEX delivery_leased ON delivery (channel_id) WHERE lease_token IS NOT NULL;
CREATE INDEX delivery_turn ON delivery (channel_id, subject, position) WHERE state = 'pending';
CREATE INDEX delivery_newest ON delivery (channel_id, position DESC);
CREATE INDEX delivery_of_event ON delivery (event_id);
CREATE INDEX delivery_ended ON delivery (time_ended) WHERE state <> 'pending';
