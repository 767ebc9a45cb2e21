import { signalNames } from "@roost/contract";

/** How a process ended, in the words of the wire. */
export interface ExitStatus {
  /** -1 when a signal ended it */
  readonly exitCode: number;
  /** false when a signal ended it */
  readonly exited: boolean;
  /** `exit status 7` or `signal: killed` */
  readonly status: string;
  /** the status again, unless it is success */
  readonly error: string | undefined;
}

/** Reads the status word of wait(2). */
export function exitStatus(waitStatus: number): ExitStatus {
  const signal = waitStatus & 0x7f;
  if (signal === 0) {
    const exitCode = (waitStatus >> 8) & 0xff;
    const status = `exit status ${exitCode}`;
    return { exitCode, exited: true, status, error: exitCode === 0 ? undefined : status };
  }
  const status = `signal: ${signalNames[signal] ?? `signal ${signal}`}${(waitStatus & 0x80) === 0 ? "" : " (core dumped)"}`;
  return { exitCode: -1, exited: false, status, error: status };
}
