import {
  guestLogCommandLengthMax,
  guestLogEpochsMax,
  guestLogPageBytesMax,
  guestLogPageRecordsMax,
  type GuestLogPage,
  type GuestLogRecord,
} from "@roost/contract";
import { KiB } from "@roost/kit";

import type { ExitStatus } from "../process/exit-status.ts";

/** Output kept in `bytes` until the host has it. The host asks every few seconds while something goes on; more is dropped, the oldest first. */
export const logBytesMax = 512 * KiB;
/** Records kept. Each may hold on to a slab of small buffers (8 KiB), of which most share one. */
export const logRecordsMax = 2048;

/** A process as the log tells of its start. */
export interface LoggedProcess {
  readonly pid: number;
  readonly config: { readonly cmd: string; readonly args: readonly string[] };
  readonly cwd: string;
  readonly user: string;
  readonly tag: string | undefined;
  readonly hasTerminal: boolean;
}

/** What is kept of an event until somebody asks: references only, since most is never asked for and a guest's CPU may be emulated. */
type Kept =
  | { readonly k: "start"; readonly t: number; readonly process: LoggedProcess }
  | { readonly k: "stdout" | "stderr"; readonly t: number; readonly pid: number; readonly bytes: Uint8Array }
  | { readonly k: "end"; readonly t: number; readonly pid: number; readonly exit: ExitStatus; readonly timedOut: boolean };

interface Epoch {
  readonly id: string;
  /** Number of its first record */
  readonly first: number;
}

/**
 * What the processes of this guest did, kept until the host has fetched it: starts, output of pipes, ends.
 *
 * Output is kept in the pieces in which it was read, by reference; the host splits it into lines, on a CPU that is not emulated. A
 * terminal's output is not kept: it is a screen being drawn, full of cursor movements and of what somebody typed, and is no log.
 *
 * Numbers and epochs: see `guestLogsPath` in the contract.
 */
export class ProcessLog {
  readonly #kept: (Kept | undefined)[] = Array.from({ length: logRecordsMax });
  /** Number of the oldest record that is kept, and of the next one that comes. */
  #first = 1;
  #next = 1;
  #bytes = 0;
  /** Number of the newest record that somebody has. */
  #told = 0;
  #epochs: Epoch[];

  /** `epoch`: of an agent that was just started */
  constructor(epoch: string) {
    this.#epochs = [{ id: epoch, first: 1 }];
  }

  started(process: LoggedProcess): void {
    this.#push({ k: "start", t: Date.now(), process });
  }

  /** The bytes must not be changed afterwards. */
  output(pid: number, k: "stdout" | "stderr", bytes: Uint8Array): void {
    this.#bytes += bytes.length;
    this.#push({ k, t: Date.now(), pid, bytes });
    while (this.#bytes > logBytesMax) this.#dropOldest();
  }

  ended(pid: number, exit: ExitStatus, timedOut: boolean): void {
    this.#push({ k: "end", t: Date.now(), pid, exit, timedOut });
  }

  /** The guest is another sandbox from here on: nothing of the former one is told. */
  clear(epoch: string): void {
    while (this.#first < this.#next) this.#dropOldest();
    this.#epochs = [{ id: epoch, first: this.#next }];
    this.#told = this.#next - 1;
  }

  /** The guest goes on from a saved state, as the same sandbox. */
  beginEpoch(id: string): void {
    this.#epochs.push({ id, first: this.#next });
    if (this.#epochs.length > guestLogEpochsMax) this.#epochs.shift();
  }

  /** `EPOCH NUMBER` of the newest record. */
  get mark(): string {
    return `${this.#epochs.at(-1)?.id ?? ""} ${this.#next - 1}`;
  }

  /** What came after a record; that one and those before it are forgotten. At most so many `bytes` of output, but one record at least. */
  page(asked: { readonly after: number; readonly epoch: string; readonly bytesMax: number }): GuestLogPage {
    this.#told = Math.max(this.#told, this.#common(asked));
    while (this.#first <= this.#told) this.#dropOldest();
    const records: GuestLogRecord[] = [];
    let bytesLeft = Math.min(asked.bytesMax, guestLogPageBytesMax);
    for (let n = this.#first; n < this.#next && records.length < guestLogPageRecordsMax; n += 1) {
      const kept = this.#kept[n % logRecordsMax];
      if (kept === undefined) continue;
      bytesLeft -= roughSize(kept);
      if (bytesLeft < 0 && records.length > 0) break;
      records.push(toRecord(n, kept));
    }
    return { epochs: [...this.#epochs], after: this.#told, newest: this.#next - 1, records };
  }

  /** The newest record that who asks surely has: the epoch it names may have gone on without this guest. */
  #common({ after, epoch }: { readonly after: number; readonly epoch: string }): number {
    const index = this.#epochs.findIndex(({ id }) => id === epoch);
    if (index < 0) return 0;
    return Math.min(after, (this.#epochs[index + 1]?.first ?? this.#next) - 1);
  }

  #push(kept: Kept): void {
    if (this.#next - this.#first >= logRecordsMax) this.#dropOldest();
    this.#kept[this.#next % logRecordsMax] = kept;
    this.#next += 1;
  }

  #dropOldest(): void {
    const index = this.#first % logRecordsMax;
    const kept = this.#kept[index];
    if (kept !== undefined && "bytes" in kept) this.#bytes -= kept.bytes.length;
    this.#kept[index] = undefined;
    this.#first += 1;
  }
}

function toRecord(n: number, kept: Kept): GuestLogRecord {
  const { k, t } = kept;
  switch (k) {
    case "start": {
      const { pid, config, cwd, user, tag, hasTerminal } = kept.process;
      const about = { command: commandText(config), cwd: cwd.slice(0, guestLogCommandLengthMax), user, terminal: hasTerminal };
      return { k, n, t, pid, ...about, ...(tag === undefined ? {} : { tag }) };
    }
    case "end":
      return { k, n, t, pid: kept.pid, status: kept.exit.status, ok: kept.exit.exitCode === 0, timedOut: kept.timedOut };
    case "stdout":
    case "stderr":
      return { k, n, t, pid: kept.pid, data: base64(kept.bytes) };
  }
}

/** What a record takes of an answer in `bytes`. */
function roughSize(kept: Kept): number {
  return 128 + (kept.k === "start" ? 2 * guestLogCommandLengthMax : "bytes" in kept ? kept.bytes.length : 0);
}

/** No more of the arguments than are told: there may be 4096 of 128 KiB. */
function commandText({ cmd, args }: LoggedProcess["config"]): string {
  let text = cmd.slice(0, guestLogCommandLengthMax);
  for (const arg of args) {
    if (text.length >= guestLogCommandLengthMax) break;
    text += ` ${arg.slice(0, guestLogCommandLengthMax)}`;
  }
  return text.slice(0, guestLogCommandLengthMax);
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
}
