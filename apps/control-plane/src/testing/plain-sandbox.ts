import { defaultTeamId } from "@roost/contract";

import type { NewSandbox } from "../db/sandboxes.ts";

/** What a record has that nobody asked anything special for. */
export const plainSandbox = {
  template: "base",
  vcpus: 1,
  memoryMib: 512,
  diskSizeMib: 1024,
  timeoutSec: 0,
  checkpointIntervalSec: 0,
  accessToken: "token",
  metadata: {},
  autoResume: false,
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
