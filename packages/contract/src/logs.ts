/** Levels of a sandbox's log entries, the least important first. */
export const logLevels = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof logLevels)[number];

/** Entries in one answer; also the default, as E2B's */
export const logEntriesMax = 1000;
/** Length of a text that messages are searched for, in characters */
export const logSearchLengthMax = 256;

/** One thing that a sandbox's processes wrote, or that the platform did with it. */
export interface LogEntry {
  /** Unix `ms`; never less than that of the entry before */
  readonly timeMs: number;
  readonly level: LogLevel;
  /** One line. What a guest wrote is untrusted text: it may hold anything but a line end */
  readonly message: string;
  /** For programs: `logger` (`process` or `platform`), `event_type`, `pid`, … */
  readonly fields: Readonly<Record<string, string>>;
}

export interface LogQuery {
  /** Forward: entries at or after this instant in Unix `ms`; backward: those before it. Without it: from the oldest, or from the newest */
  readonly cursorMs?: number | undefined;
  readonly limit: number;
  readonly direction: "forward" | "backward";
  /** The least important level */
  readonly level?: LogLevel | undefined;
  /** Messages that contain this, letter for letter */
  readonly search?: string | undefined;
}

export function isLogLevel(text: string): text is LogLevel {
  return (logLevels as readonly string[]).includes(text);
}
