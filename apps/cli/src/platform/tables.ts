import { controlPlaneOptions } from "@roost/control-plane/options";
import { hostAgentOptions, membershipOptions } from "@roost/host-agent/options";
import type { AnyOptions } from "@roost/kit";

import { fateOptions, logOptions } from "./platform-options.ts";

/** Everything that can be set of a platform in one process. */
export const platformTables: readonly AnyOptions[] = [controlPlaneOptions, hostAgentOptions, logOptions, fateOptions];

/** Every setting of the platform, whatever its processes are. */
export const allTables: readonly AnyOptions[] = [...platformTables, membershipOptions];

/** Commands that are processes of a platform, each with what can be set of it. */
export const tablesOf: Readonly<Record<string, readonly AnyOptions[]>> = {
  up: platformTables,
  "control-plane": [controlPlaneOptions, logOptions],
  "host-agent": [membershipOptions, hostAgentOptions, logOptions, fateOptions],
};
