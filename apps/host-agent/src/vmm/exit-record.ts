import { constants } from "node:os";

import type { VmExit } from "./driver.ts";

/** Longest exit record in `bytes`: three digits and a newline. */
export const exitRecordBytesMax = 8;

const signalNames = new Map<number, string>();
for (const [name, number] of Object.entries(constants.signals)) {
  if (!signalNames.has(number)) signalNames.set(number, name); // the first is the usual one: SIGABRT, then SIGIOT
}

/**
 * Reads what the supervisor wrote: the exit status as a shell counts it, 128 and the signal's number for a signal.
 * The VM's uid owns the file, so anything else in it counts as "nobody knows".
 */
export function parseExitRecord(text: string): Pick<VmExit, "exitCode" | "signal"> {
  const status = /^(\d{1,3})\n$/.exec(text)?.[1];
  const code = status === undefined ? undefined : Number(status);
  if (code === undefined || code > 255) return { exitCode: null, signal: null };
  const signal = code > 128 ? signalNames.get(code - 128) : undefined;
  return signal === undefined ? { exitCode: code, signal: null } : { exitCode: null, signal };
}
