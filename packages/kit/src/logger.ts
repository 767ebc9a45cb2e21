import { pino, type Logger as PinoLogger } from "pino";

/** Levels mean the same everywhere: debug nothing to do · info work done · warn something is wrong · error somebody should look. */
export type Logger = Pick<PinoLogger, "debug" | "info" | "warn" | "error" | "child" | "level" | "isLevelEnabled">;

export type LogLevel = "debug" | "info" | "warn" | "error" | "silent";

export interface LoggerOptions {
  readonly level: LogLevel;
  readonly file?: string;
  readonly name?: string;
  /** Gets the lines instead of a file or standard output. */
  readonly destination?: { write(line: string): void };
}

/** JSON lines, to `file` (appended, synchronous so that a crash loses none) or standard output. */
export function createLogger(options: LoggerOptions): Logger {
  const destination = options.destination ?? pino.destination({ dest: options.file ?? 1, sync: true, mkdir: true });
  return pino(
    {
      level: options.level,
      base: options.name === undefined ? null : { name: options.name },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: ["*.accessToken", "*.access_token", "*.apiKey", "accessToken", "apiKey"], censor: "<redacted>" },
    },
    destination,
  );
}

export const silentLogger: Logger = pino({ level: "silent" });
