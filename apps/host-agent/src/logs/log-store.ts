import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";

import { sandboxIdPattern, type EventKind, type LogEntry, type LogQuery } from "@roost/contract";
import { minute, type Logger } from "@roost/kit";

import type { HostEvent } from "../sandbox/host-events.ts";
import { GuestLogCollector, type GuestLogCollectorOptions } from "./guest-log-collector.ts";
import { oneLine } from "./one-line.ts";
import { platformEntry } from "./platform-entry.ts";
import { SandboxLog, type LogLimits } from "./sandbox-log.ts";

/** How large the log of a sandbox becomes: four segments, so that giving up the oldest loses a quarter. */
const limitsDefault: LogLimits = { segmentBytesMax: 1024 * 1024, segmentsMax: 4 };

const sweepMs = minute;
/** What begins a VM's life. Everything else that is told while one runs has its place among what its guest logged. */
const starts: ReadonlySet<EventKind> = new Set(["sandbox.created", "sandbox.resumed", "sandbox.auto_resumed", "sandbox.rolled_back"]);
const reasonLengthMax = 1024;

export interface LogStoreOptions {
  readonly root: string;
  /** How long the log of a sandbox that is gone is kept in `ms`, from its last entry */
  readonly retentionMs: number;
  /** What all logs together may take in `bytes` */
  readonly totalBytesMax: number;
  /** Ids of the sandboxes that there are; undefined as long as that is not known */
  readonly living: () => ReadonlySet<string> | undefined;
  readonly limits?: LogLimits;
  readonly log: Logger;
}

/** The logs of this host's sandboxes, by id; for a while also of those that are gone. */
export class LogStore {
  readonly #options: LogStoreOptions;
  readonly #logs = new Map<string, SandboxLog>();
  /** By sandbox: of the VM that runs */
  readonly #collectors = new Map<string, GuestLogCollector>();
  #timer: NodeJS.Timeout | undefined;
  #sweep: Promise<void> | undefined;

  constructor(options: LogStoreOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    await mkdir(this.#options.root, { recursive: true, mode: 0o700 });
    this.#timer = setInterval(() => {
      this.#sweep ??= this.sweep()
        .catch((error: unknown) => this.#options.log.warn({ err: error }, "old logs could not be removed"))
        .finally(() => {
          this.#sweep = undefined;
        });
    }, sweepMs);
    this.#timer.unref();
  }

  /** Resolves when what was appended is in its files. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#sweep;
    for (const log of this.#logs.values()) await log.settled();
  }

  /** The log of a sandbox; it begins with what is first appended to it. */
  of(sandboxId: string): SandboxLog {
    let log = this.#logs.get(sandboxId);
    if (log === undefined) {
      log = new SandboxLog(join(this.#options.root, sandboxId), this.#options.limits ?? limitsDefault);
      this.#logs.set(sandboxId, log);
    }
    return log;
  }

  /** Follows the guest of a sandbox's VM until `signal` aborts, whenever the collector is told to. */
  follow(sandboxId: string, client: GuestLogCollectorOptions["client"], signal: AbortSignal): GuestLogCollector {
    const collector = new GuestLogCollector({
      client,
      target: this.of(sandboxId),
      signal,
      log: this.#options.log.child({ sandboxId }),
    });
    this.#collectors.set(sandboxId, collector);
    const forget = () => {
      if (this.#collectors.get(sandboxId) === collector) this.#collectors.delete(sandboxId);
    };
    signal.addEventListener("abort", forget, { once: true });
    return collector;
  }

  /** Undefined when nothing is kept of such a sandbox. The id must be one that a sandbox can have. */
  async query(sandboxId: string, query: LogQuery): Promise<LogEntry[] | undefined> {
    return this.of(sandboxId).query(query);
  }

  /** Writes down what the platform did with a sandbox. That it cannot be written holds up nothing. */
  tell(event: HostEvent): void {
    if (event.sandboxId !== undefined) this.#tell(event.sandboxId, platformEntry(event), { isStart: starts.has(event.kind) });
  }

  /** The same for what it is about to do, and why; nothing when there is no particular reason. */
  note(sandboxId: string, eventType: string, reason: string): void {
    if (reason === "") return;
    const message = oneLine(reason).slice(0, reasonLengthMax);
    const entry: LogEntry = { timeMs: Date.now(), level: "info", message, fields: { logger: "platform", event_type: eventType } };
    this.#tell(sandboxId, entry, { isStart: false });
  }

  /** Removes logs of sandboxes that are gone: those whose time is over, and, when all together take too much, the oldest; then the oldest parts of the others'. */
  async sweep(nowMs = Date.now()): Promise<void> {
    const { root, living, retentionMs, totalBytesMax } = this.#options;
    const present = living();
    if (present === undefined) return;
    const gone: { readonly id: string; readonly bytes: number; readonly writtenMs: number }[] = [];
    let total = 0;
    for (const id of await readdir(root)) {
      if (!sandboxIdPattern.test(id)) continue; // not ours
      if (present.has(id)) total += await this.of(id).bytes();
      else gone.push({ id, ...(await sizeOf(join(root, id))) });
    }
    for (const id of this.#logs.keys()) if (!present.has(id)) await this.#forget(id);
    gone.sort((one, other) => one.writtenMs - other.writtenMs);
    total += gone.reduce((sum, { bytes }) => sum + bytes, 0);
    for (const { id, bytes, writtenMs } of gone) {
      if (nowMs - writtenMs < retentionMs && total <= totalBytesMax) continue;
      await rm(join(root, id), { recursive: true, force: true });
      total -= bytes;
    }
    if (total > totalBytesMax) await this.#shrink(present, total - totalBytesMax);
  }

  #tell(sandboxId: string, entry: LogEntry, { isStart }: { readonly isStart: boolean }): void {
    const collector = isStart ? undefined : this.#collectors.get(sandboxId);
    (collector?.tell(entry) ?? this.of(sandboxId).append([entry])).catch((error: unknown) =>
      this.#options.log.warn({ err: error, sandboxId }, "an event could not be written to the sandbox's log"),
    );
  }

  /** What is written of a sandbox that is gone comes seldom: its log is looked at anew then. */
  async #forget(id: string): Promise<void> {
    await this.#logs.get(id)?.settled();
    this.#logs.delete(id);
  }

  async #shrink(ids: Iterable<string>, bytes: number): Promise<void> {
    let left = bytes;
    for (let freed = 1; left > 0 && freed > 0;) {
      freed = 0;
      for (const id of ids) freed += await this.of(id).shrink();
      left -= freed;
    }
  }
}

/** `bytes` of a folder's files, and when the newest was written, in Unix `ms`. */
async function sizeOf(folder: string): Promise<{ readonly bytes: number; readonly writtenMs: number }> {
  let [bytes, writtenMs] = [0, 0];
  for (const name of await readdir(folder).catch(() => [])) {
    const found = await stat(join(folder, name)).catch(() => undefined); // gone meanwhile
    bytes += found?.size ?? 0;
    writtenMs = Math.max(writtenMs, found?.mtimeMs ?? 0);
  }
  return { bytes, writtenMs };
}
