import { Code } from "@connectrpc/connect";
import { Signal } from "@roost/contract/gen/process/process_pb.js";
import { PlatformError, type Process } from "@roost/contract";
import { second } from "@roost/kit";

import { processErrors } from "./guest-errors.ts";
import type { Guest } from "./guest.ts";
import { describeSelector, selectorOf, type ProcessSelector } from "./process-selector.ts";

/** Time between SIGTERM and SIGKILL in `ms` */
export const stopGraceMs = 5 * second;

/** Processes started through the API that still run. */
export async function listProcesses(guest: Guest, signal?: AbortSignal): Promise<Process[]> {
  const answer = await guest.call((options) => guest.processes.list({}, options), {
    errors: {},
    ...(signal === undefined ? {} : { signal }),
  });
  return answer.processes.map((process) => ({
    pid: process.pid,
    tag: process.tag ?? null,
    cmd: process.config?.cmd ?? "",
    args: process.config?.args ?? [],
  }));
}

/** Signals a whole process group; throws `process_not_found`. */
export async function signalProcess(guest: Guest, selector: ProcessSelector, signal: "SIGTERM" | "SIGKILL"): Promise<void> {
  try {
    await guest.call(
      (options) =>
        guest.processes.sendSignal(
          { process: selectorOf(selector), signal: signal === "SIGTERM" ? Signal.SIGTERM : Signal.SIGKILL },
          options,
        ),
      { errors: processErrors },
    );
  } catch (error) {
    if (error instanceof PlatformError && error.code === "process_not_found") {
      throw new PlatformError("process_not_found", `${describeSelector(selector)} is not running`, { cause: error });
    }
    throw error;
  }
}

/** Signals a process of ours that may just have ended: then there is nothing left to do. */
export async function signalIfRunning(guest: Guest, pid: number, signal: "SIGTERM" | "SIGKILL"): Promise<void> {
  try {
    await signalProcess(guest, { pid }, signal);
  } catch (error) {
    if (!(error instanceof PlatformError && error.code === "process_not_found")) throw error;
  }
}

export async function resizeTerminal(guest: Guest, pid: number, size: { readonly cols: number; readonly rows: number }): Promise<void> {
  await guest.call((options) => guest.processes.update({ process: selectorOf({ pid }), pty: { size } }, options), {
    errors: { ...processErrors, [Code.NotFound]: "process_not_found" },
  });
}
