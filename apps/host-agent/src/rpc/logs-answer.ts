import { isLogLevel, logEntriesMax, logSearchLengthMax, PlatformError, sandboxIdSchema, type LogQuery } from "@roost/contract";
import type { GetLogsRequest } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import type { LogStore } from "../logs/log-store.ts";
import type { SandboxManager } from "../sandbox/sandbox-manager.ts";

/** Time in `ms` that the newest of a running guest's log is waited for; then the answer is what there is. */
const freshenTimeoutMs = 1_000;

/** Answers `GetLogs`: also of a sandbox that is gone, as long as its log is kept. Throws `sandbox_not_found` when nothing is known of it. */
export async function answerLogs(request: GetLogsRequest, manager: SandboxManager, logs: LogStore) {
  const { sandboxId } = request;
  const query = queryOf(request);
  const sandbox = manager.has(sandboxId) ? manager.get(sandboxId) : undefined;
  await sandbox?.running?.logs.collect(freshenTimeoutMs);
  const entries = sandboxIdSchema.safeParse(sandboxId).success ? await logs.query(sandboxId, query) : undefined;
  if (entries === undefined && sandbox === undefined) {
    throw new PlatformError("sandbox_not_found", `there is no sandbox '${sandboxId.slice(0, 64)}' on this host, and no log of one`);
  }
  return (entries ?? []).map(({ timeMs, level, message, fields }) => ({ timeMs: BigInt(timeMs), level, message, fields }));
}

function queryOf({ cursorMs, limit, backward, level, search }: GetLogsRequest): LogQuery {
  if (level !== "" && !isLogLevel(level)) throw new PlatformError("request_invalid", "level must be debug, info, warn or error");
  if (search.length > logSearchLengthMax)
    throw new PlatformError("request_invalid", `search is longer than ${logSearchLengthMax} characters`);
  return {
    ...(cursorMs === undefined ? {} : { cursorMs: Number(cursorMs) }),
    limit: limit === 0 ? logEntriesMax : Math.min(limit, logEntriesMax),
    direction: backward ? "backward" : "forward",
    level: level === "" ? undefined : level,
    search: search === "" ? undefined : search,
  };
}
