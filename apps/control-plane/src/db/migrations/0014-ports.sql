-- Who may reach the ports of a sandbox, where its network policy is not all there is to say.

ALTER TABLE sandbox
  -- port → private or public; * stands for all others. Empty: as the network policy says
  ADD COLUMN port_access             jsonb       NOT NULL DEFAULT '{}',
  -- part of what signs URLs of its ports: another number, and none of those before opens anything
  ADD COLUMN port_key_number         integer     NOT NULL DEFAULT 1;
