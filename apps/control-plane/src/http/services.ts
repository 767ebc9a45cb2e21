import type { Logger } from "@roost/kit";

import type { Database } from "../db/database.ts";
import type { Events } from "../events/events.ts";
import type { Guests } from "../guest/guests.ts";
import type { Hosts } from "../hosts/hosts.ts";
import type { HostTemplate } from "../hosts/observed.ts";
import type { Sandboxes } from "../sandboxes/sandboxes.ts";
import type { Snapshots } from "../snapshots/snapshots.ts";
import type { ApiKeys } from "../teams/api-keys.ts";
import type { BuildFiles } from "../templates/build-files.ts";
import type { Builds } from "../templates/builds.ts";
import type { BuiltTemplates } from "../templates/built-templates.ts";
import type { ControlPlaneMetrics } from "./metrics.ts";

/** What routes may call. None of them sees the database, except for the question whether it answers. */
export interface Services {
  readonly sandboxes: Sandboxes;
  readonly snapshots: Snapshots;
  readonly templates: BuiltTemplates;
  readonly builds: Builds;
  readonly buildFiles: BuildFiles;
  readonly events: Events;
  readonly guests: Guests;
  readonly hosts: Hosts;
  readonly apiKeys: ApiKeys;
  readonly metrics: ControlPlaneMetrics;
  readonly ping: Database["ping"];
  /** Of all hosts, also those that users do not see, at most `ageMs` old */
  readonly listHostTemplates: (ageMs?: number) => Promise<readonly HostTemplate[]>;
  /** Under which ports of sandboxes have host names; null: they have none */
  readonly domain: string | null;
  readonly log: Logger;
  /** Whether a shutdown has begun. */
  readonly isDraining: () => boolean;
}
