-- Invitations that somebody made who may invite nobody any more are taken back.

ALTER TABLE invitation
  -- user or API key; null: from before this was kept
  ADD COLUMN invited_by_id           text;
