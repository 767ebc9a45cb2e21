import { run, type RunOptions } from "@roost/kit";

/** Longest a single build step may take in `ms`: a slow mirror, not a hanging one. */
export const stepTimeoutMs = 15 * 60_000;

/**
 * Runs a command that starts other programs and mounts things (a package installation), so that nothing of it survives:
 * its own PID namespace, whose processes all end with the first, and its own mounts. It ends, too, when we are killed.
 */
export function containedRun(command: readonly [string, ...string[]], options: RunOptions = {}): Promise<string> {
  const wrapper = [
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--fork",
    "--pid",
    "--mount",
    "--mount-proc",
    "--kill-child=KILL",
    "--",
  ] as const;
  return run([...wrapper, ...command], { timeoutMs: stepTimeoutMs, ...options });
}
