import { isLogLevel, PlatformError, type LogEntry, type LogQuery } from "@roost/contract";

import type { Hosts } from "../hosts/hosts.ts";
import { callTimeoutMs } from "../hosts/host-link.ts";
import type { OwnedId } from "../db/owned-id.ts";
import type { SandboxRecords } from "./records.ts";

export interface LogSources {
  readonly records: SandboxRecords;
  readonly hosts: Hosts;
}

/**
 * What a sandbox's processes and the platform wrote, as its host has kept it: also of one that has ended, for as long as its record and its
 * log are kept. Rejects with `sandbox_not_found` when there is no record of it.
 */
export async function readLogs({ records, hosts }: LogSources, owned: OwnedId, query: LogQuery): Promise<LogEntry[]> {
  const row = await records.recorded(owned);
  if (query.limit === 0) return []; // to a host it means the default
  const host = hosts.get(row.host_id);
  const request = {
    sandboxId: row.id,
    limit: query.limit,
    backward: query.direction === "backward",
    level: query.level ?? "",
    search: query.search ?? "",
    ...(query.cursorMs === undefined ? {} : { cursorMs: BigInt(query.cursorMs) }),
  };
  try {
    const { entries } = await host.call(() => host.client.getLogs(request, { timeoutMs: callTimeoutMs }));
    return entries.map(({ timeMs, level, message, fields }) => ({
      timeMs: Number(timeMs),
      level: isLogLevel(level) ? level : "info",
      message,
      fields,
    }));
  } catch (error) {
    if (error instanceof PlatformError && error.code === "sandbox_not_found") return []; // its log's time is over, or it never had one
    throw error;
  }
}
