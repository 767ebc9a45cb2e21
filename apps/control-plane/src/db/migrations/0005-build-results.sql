-- A build whose every step and end were done before takes over what that made; one that goes on after a restart has what was fetched for it.

ALTER TABLE build
  -- hash of all that its template follows from; null: it cannot be taken over
  ADD COLUMN result_key text,
  -- what its images became on its host: source as JSON -> BuildSource
  ADD COLUMN sources    jsonb NOT NULL DEFAULT '{}';
CREATE INDEX build_result ON build (result_key, time_ended DESC) WHERE state = 'ready' AND result_key IS NOT NULL;
