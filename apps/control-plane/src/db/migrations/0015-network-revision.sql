-- Which of two changes of a network policy came last, as the sandbox's host had them.

ALTER TABLE sandbox
  -- the revision of the sandbox on its host since which the recorded policy is in force
  ADD COLUMN network_revision        bigint      NOT NULL DEFAULT 0;
