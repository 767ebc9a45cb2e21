import { guestLogCursorSchema, isLogLevel, type GuestLogCursor, type LogEntry } from "@roost/contract";

/**
 * The lines of a log's files. One JSON object each: an entry `{"t":…,"l":…,"m":…,"f":{…}}`, or, behind what came from a guest, how far its log
 * has been followed: `{"cursor":{…}}`. Entry and cursor are in one file so that no crash can tear them apart.
 */

const entryStart = '{"t":';

export function entryLine({ timeMs, level, message, fields }: LogEntry): string {
  return `${JSON.stringify({ t: timeMs, l: level, m: message, f: fields })}\n`;
}

export function cursorLine(cursor: GuestLogCursor): string {
  return `${JSON.stringify({ cursor })}\n`;
}

/** The instant of an entry's line in Unix `ms`, without reading the rest; undefined for every other line. */
export function timeOfLine(line: string): number | undefined {
  if (!line.startsWith(entryStart)) return undefined;
  const timeMs = Number(line.slice(entryStart.length, line.indexOf(",", entryStart.length)));
  return Number.isFinite(timeMs) ? timeMs : undefined;
}

/** Undefined for what is no entry, such as a line that a crash cut. */
export function parseEntryLine(line: string): LogEntry | undefined {
  const parsed = parseObject(line);
  if (parsed === undefined) return undefined;
  const { t, l, m, f } = parsed;
  if (typeof t !== "number" || typeof l !== "string" || !isLogLevel(l) || typeof m !== "string" || typeof f !== "object" || f === null)
    return undefined;
  return { timeMs: t, level: l, message: m, fields: f as Readonly<Record<string, string>> };
}

export function parseCursorLine(line: string): GuestLogCursor | undefined {
  if (!line.startsWith('{"cursor":')) return undefined;
  const parsed = guestLogCursorSchema.safeParse(parseObject(line)?.["cursor"]);
  return parsed.success ? parsed.data : undefined;
}

function parseObject(line: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const parsed: unknown = JSON.parse(line);
    return typeof parsed === "object" && parsed !== null ? (parsed as Record<string, unknown>) : undefined;
  } catch {
    return undefined; // cut, or not ours: there is nothing in it to save
  }
}
