import { controlPlaneOptions } from "@roost/control-plane/options";
import { hostAgentOptions } from "@roost/host-agent/options";
import type { AnyOptions } from "@roost/kit";

import { upOptions } from "./platform-options.ts";

/** Everything that can be set of a platform in one process. */
export const platformTables: readonly AnyOptions[] = [controlPlaneOptions, hostAgentOptions, upOptions];
