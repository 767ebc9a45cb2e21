import type { EventKind, LogEntry, LogLevel } from "@roost/contract";

import type { HostEvent } from "../sandbox/host-events.ts";
import { oneLine } from "./one-line.ts";

/** Everything else is `info`. */
const levels: Partial<Record<EventKind, LogLevel>> = {
  "sandbox.pause_failed": "warn",
  "sandbox.vm_lost": "error",
  "sandbox.failed": "error",
};

/** What the log of a sandbox says of an event. */
export function platformEntry({ kind, timeMs, message, detail }: HostEvent): LogEntry {
  return { timeMs, level: levels[kind] ?? "info", message: oneLine(message), fields: { ...detail, logger: "platform", event_type: kind } };
}
