import { second, type Logger } from "@roost/kit";

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

/** Time after a resume in `ms` until its commands are looked for: what the sandbox was resumed for comes first */
const settleMs = 2 * second;

/**
 * Follows the commands that go on in sandboxes that were resumed or forked. A pause cuts all connections into a guest, so
 * without this a command that ran through it would no longer count as activity.
 */
export class ResumedCommands {
  readonly #guests: Guests;
  readonly #log: Logger;
  readonly #timers = new Map<string, NodeJS.Timeout>();

  constructor(guests: Guests, log: Logger) {
    this.#guests = guests;
    this.#log = log;
  }

  resumed(row: SandboxRow): void {
    this.forget(row.id);
    const start = () => {
      this.#timers.delete(row.id);
      void followRunningCommands([row], this.#guests, this.#log);
    };
    this.#timers.set(row.id, setTimeout(start, settleMs));
  }

  /** The sandbox's VM has ended again. */
  forget(sandboxId: string): void {
    clearTimeout(this.#timers.get(sandboxId));
    this.#timers.delete(sandboxId);
  }

  close(): void {
    for (const sandboxId of this.#timers.keys()) this.forget(sandboxId);
  }
}

async function follow(row: SandboxRow, guests: Guests, log: Logger): Promise<void> {
  const guest = guests.of(row);
  const processes = await listProcesses(guest);
  for (const process of processes.filter(({ tag }) => tag?.startsWith("pty-") !== true).slice(0, commandsMax)) {
    const stream = await ProcessStream.connect(guest, { pid: process.pid }, new AbortController().signal);
    void keepReading(stream, log);
  }
}
