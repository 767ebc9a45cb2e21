import { networkPolicySchema } from "@roost/contract";

import type { SandboxRow } from "../db/sandboxes.ts";
import { accessOfOthers } from "../sandboxes/port-access.ts";
import { presenceOf } from "../sandboxes/present.ts";
import { networkToE2b } from "./network.ts";

/** What the guest agent answers to is what E2B's did at this version: its clients turn features on by it. */
export const envdVersion = "0.6.13";
/** E2B's clients want one and do nothing with it */
const clientId = "00000000";
/** The end of what has none: E2B's form has no word for that, and its clients make a date of it. */
const noEnd = "9000-01-01T00:00:00.000Z";

/** What a client needs to talk to a sandbox. */
export function viewSandbox(row: SandboxRow, domain: string | null) {
  return {
    templateID: row.template,
    sandboxID: row.id,
    clientID: clientId,
    alias: row.template,
    envdVersion,
    ...(row.is_secure ? { envdAccessToken: row.access_token } : {}),
    trafficAccessToken: row.traffic_token,
    domain,
  };
}

export function viewListed(row: SandboxRow) {
  return {
    templateID: row.template,
    alias: row.template,
    sandboxID: row.id,
    clientID: clientId,
    startedAt: (row.time_started ?? row.time_created).toISOString(),
    endAt: endOf(row),
    cpuCount: row.vcpus,
    memoryMB: row.memory_mib,
    diskSizeMB: row.disk_size_mib,
    state: presenceOf(row),
    metadata: row.metadata,
    envdVersion,
    volumeMounts: [],
  };
}

export function viewDetail(row: SandboxRow, domain: string | null) {
  const policy = networkPolicySchema.parse(row.network);
  return {
    ...viewListed(row),
    domain,
    ...(row.is_secure ? { envdAccessToken: row.access_token } : {}),
    allowInternetAccess: policy.allow_internet,
    network: { ...networkToE2b(policy), allowPublicTraffic: accessOfOthers(row) === "public" },
    lifecycle: { onTimeout: row.expiry_action === "pause" ? "pause" : "kill", autoResume: row.auto_resume },
  };
}

/** Of a paused one: since when it has been paused. */
function endOf(row: SandboxRow): string {
  if (presenceOf(row) === "paused") return (row.time_paused ?? row.time_expires ?? row.time_state_updated).toISOString();
  return row.time_expires?.toISOString() ?? noEnd;
}
