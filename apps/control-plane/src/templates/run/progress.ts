import type { BuildLogLevel } from "@roost/contract";

/** What is said of a build while it goes on. */
export interface Progress {
  /** A line of its log */
  say(level: BuildLogLevel, step: string | null, line: string): Promise<void>;
  /** A step needs no more work. More than once counts once. */
  stepDone(label: string, how: { readonly isCached: boolean }): void;
}
