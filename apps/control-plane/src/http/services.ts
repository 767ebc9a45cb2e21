import type { Logger } from "@roost/kit";

import type { Accounts } from "../accounts/accounts.ts";
import type { Channels } from "../channels/channels.ts";
import type { Deliveries } from "../channels/deliveries.ts";
import type { Database } from "../db/database.ts";
import type { Events } from "../events/events.ts";
import type { Guests } from "../guest/guests.ts";
import type { HostAdministration } from "../hosts/host-administration.ts";
import type { Hosts } from "../hosts/hosts.ts";
import type { HostTemplate } from "../hosts/observed.ts";
import type { Ports } from "../sandboxes/ports.ts";
import type { Sandboxes } from "../sandboxes/sandboxes.ts";
import type { Bookkeeping } from "../usage/bookkeeping.ts";
import type { Snapshots } from "../snapshots/snapshots.ts";
import type { ApiKeys } from "../teams/api-keys.ts";
import type { Teams } from "../teams/teams.ts";
import type { BuildFiles } from "../templates/build-files.ts";
import type { Builds } from "../templates/builds.ts";
import type { BuiltTemplates } from "../templates/built-templates.ts";
import type { TemplateLookup } from "../templates/template-lookup.ts";
import type { Authentication } from "./authentication.ts";
import type { EventStreams } from "./event-stream.ts";
import type { ControlPlaneMetrics } from "./metrics.ts";

/** What routes may call. None of them sees the database, except for the question whether it answers. */
export interface Services {
  readonly sandboxes: Sandboxes;
  /** Who may reach ports of sandboxes */
  readonly ports: Ports;
  readonly snapshots: Snapshots;
  readonly teams: Teams;
  readonly templates: BuiltTemplates;
  readonly lookup: TemplateLookup;
  readonly builds: Builds;
  readonly buildFiles: BuildFiles;
  readonly events: Events;
  readonly eventStreams: EventStreams;
  readonly channels: Channels;
  readonly deliveries: Deliveries;
  readonly guests: Guests;
  readonly hosts: Hosts;
  readonly hostAdministration: HostAdministration;
  /** Who sent a request */
  readonly authentication: Authentication;
  readonly apiKeys: ApiKeys;
  /** People, their sessions and teams */
  readonly accounts: Accounts;
  readonly metrics: ControlPlaneMetrics;
  readonly bookkeeping: Bookkeeping;
  /** Whether commands and files of guests are audited, too */
  readonly auditCommands: boolean;
  readonly ping: Database["ping"];
  /** Of all hosts, also those that users do not see, at most `ageMs` old */
  readonly listHostTemplates: (ageMs?: number) => Promise<readonly HostTemplate[]>;
  /** Under which ports of sandboxes have host names; null: they have none */
  readonly domain: string | null;
  readonly log: Logger;
  /** Whether a shutdown has begun. */
  readonly isDraining: () => boolean;
}
