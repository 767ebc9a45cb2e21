-- As in 0011, but for a sandbox that was paused and resumed at the same instant: it was taken for paused until that was heard
CREATE OR REPLACE FUNCTION follow_sandbox_interval() RETURNS trigger LANGUAGE plpgsql AS $$
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
  IF instant < latest.time_started THEN
    instant := greatest(NEW.time_state_updated, latest.time_started);
  END IF;
  -- a pause and a resume within one ms: what was heard last holds from then on, not only since it was heard
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
