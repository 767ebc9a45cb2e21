import { defaultTeamId } from "@roost/contract";

import type { NewSandbox } from "../db/sandboxes.ts";

/** What a record has that nobody asked anything special for. */
export const plainSandbox = {
  expirySec: 0,
  expiryAction: "delete",
  expiryMemory: true,
  isSecure: true,
  network: {},
  trafficToken: null,
  teamId: defaultTeamId,
  templateBuildId: null,
  templateSnapshotId: null,
  forBuildId: null,
} as const satisfies Partial<NewSandbox>;
