import type { Logger } from "@roost/kit";

import type { SandboxRow } from "../db/sandboxes.ts";
import { keepReading } from "./exec.ts";
import type { Guests } from "./guests.ts";
import { listProcesses } from "./process-control.ts";
import { ProcessStream } from "./process-stream.ts";

/** Commands per sandbox that are followed again; each holds a connection */
const commandsMax = 64;
/** Sandboxes asked at the same time: a start must not wake all guests of a host at once */
const sandboxesAtOnce = 4;

/**
 * After a restart, follows again the commands that run in the background: the open connection is what makes them count
 * as activity, and a job of hours must not lose its sandbox because the control plane was replaced meanwhile. Terminals
 * nobody gave a name are left out: detached, they are no activity.
 */
export async function followRunningCommands(rows: readonly SandboxRow[], guests: Guests, log: Logger): Promise<void> {
  const waiting = rows.filter((row) => row.state === "running");
  const worker = async () => {
    for (let row = waiting.pop(); row !== undefined; row = waiting.pop()) {
      const sandboxLog = log.child({ sandboxId: row.id });
      try {
        await follow(row, guests, sandboxLog);
      } catch (error) {
        sandboxLog.info({ err: error }, "could not follow the commands of a sandbox again");
      }
    }
  };
  await Promise.all(Array.from({ length: sandboxesAtOnce }, worker));
}

async function follow(row: SandboxRow, guests: Guests, log: Logger): Promise<void> {
  const guest = guests.of(row);
  const processes = await listProcesses(guest);
  for (const process of processes.filter(({ tag }) => tag?.startsWith("pty-") !== true).slice(0, commandsMax)) {
    const stream = await ProcessStream.connect(guest, { pid: process.pid }, new AbortController().signal);
    void keepReading(stream, log);
  }
}
