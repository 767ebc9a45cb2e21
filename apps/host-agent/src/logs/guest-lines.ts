import type { GuestLogRecord, LogEntry, LogLevel } from "@roost/contract";
import { KiB } from "@roost/kit";

import { oneLine } from "./one-line.ts";

/** Of a longer line of output the beginning is kept, in `bytes`. */
export const lineBytesMax = 8 * KiB;
/** Lines of one page; more are counted and dropped. A guest that writes empty lines would otherwise make a hundred times as much of them. */
export const linesPerPageMax = 10_000;
/** Streams whose last line may wait for its end; above, the one that waits longest is told as it is. */
const unfinishedMax = 64;

const newline = 0x0a;

interface Unfinished {
  readonly pid: number;
  readonly stream: "stdout" | "stderr";
  readonly timeMs: number;
  /** What there is of it, up to `lineBytesMax` */
  text: Uint8Array;
  /** Beyond `lineBytesMax` */
  cutBytes: number;
  /** It grew since the last collection */
  isFresh: boolean;
}

/**
 * Makes entries of the records of one VM's guest, which may say anything: output is split into lines wherever its pieces begin and end.
 * The last line of a stream waits for its end until the next collection.
 */
export class GuestLines {
  /** By stream, the one that waits longest first */
  readonly #unfinished = new Map<string, Unfinished>();
  #entries: LogEntry[] = [];
  #droppedLines = 0;
  #nowMs = 0;

  /** `dropped`: records that the guest had no room for. `isLast`: nothing more comes in this collection */
  collect(records: readonly GuestLogRecord[], dropped: number, nowMs: number, { isLast } = { isLast: true }): LogEntry[] {
    this.#nowMs = nowMs;
    if (dropped > 0)
      this.#tell(nowMs, "warn", `${dropped} log records were dropped: more was written than could be kept`, { event_type: "dropped" });
    for (const record of records) this.#take(record);
    if (isLast) this.#finishStale();
    return this.#takeEntries();
  }

  /** The lines that still wait, as they are. */
  finish(nowMs: number): LogEntry[] {
    this.#nowMs = nowMs;
    for (const line of this.#unfinished.values()) this.#finish(line);
    return this.#takeEntries();
  }

  #finishStale(): void {
    for (const line of this.#unfinished.values()) {
      if (!line.isFresh) this.#finish(line);
      line.isFresh = false;
    }
  }

  #take(record: GuestLogRecord): void {
    const { pid } = record;
    const timeMs = record.t > 0 && record.t < this.#nowMs ? Math.trunc(record.t) : this.#nowMs; // what is not over yet is a lie
    switch (record.k) {
      case "start": {
        const { command, cwd, user, tag, terminal } = record;
        const about = { event_type: "start", pid: String(pid), command, cwd, user, ...(tag === undefined ? {} : { tag }) };
        return this.#tell(timeMs, "info", `process started: ${oneLine(command)}`, terminal ? { ...about, terminal: "true" } : about);
      }
      case "end": {
        for (const line of this.#unfinished.values()) if (line.pid === pid) this.#finish(line);
        const why = record.timedOut ? " (its deadline passed)" : "";
        const about = { event_type: "end", pid: String(pid), status: record.status };
        return this.#tell(timeMs, record.ok ? "info" : "warn", `process ended: ${oneLine(record.status)}${why}`, about);
      }
      case "stdout":
      case "stderr":
        return this.#split(pid, record.k, timeMs, Buffer.from(record.data, "base64"));
    }
  }

  #split(pid: number, stream: "stdout" | "stderr", timeMs: number, bytes: Uint8Array): void {
    for (let start = 0; start < bytes.length;) {
      const end = bytes.indexOf(newline, start);
      const line = this.#waiting(pid, stream, timeMs);
      add(line, bytes.subarray(start, end < 0 ? bytes.length : end));
      if (end < 0) {
        line.text = Buffer.from(line.text); // a copy: the piece it is part of need not stay for it
        return;
      }
      this.#finish(line);
      start = end + 1;
    }
  }

  #waiting(pid: number, stream: "stdout" | "stderr", timeMs: number): Unfinished {
    const key = `${pid} ${stream}`;
    let line = this.#unfinished.get(key);
    if (line === undefined) {
      const [oldest] = this.#unfinished.values();
      if (this.#unfinished.size >= unfinishedMax && oldest !== undefined) this.#finish(oldest);
      line = { pid, stream, timeMs, text: new Uint8Array(), cutBytes: 0, isFresh: true };
      this.#unfinished.set(key, line);
    }
    line.isFresh = true;
    return line;
  }

  #finish({ pid, stream, timeMs, text, cutBytes }: Unfinished): void {
    this.#unfinished.delete(`${pid} ${stream}`);
    const shown = Buffer.from(text.buffer, text.byteOffset, text.byteLength).toString("utf8");
    const message = (shown.endsWith("\r") ? shown.slice(0, -1) : shown) + (cutBytes === 0 ? "" : `… (${cutBytes} bytes more)`);
    this.#tell(timeMs, stream === "stderr" ? "warn" : "info", message, { event_type: stream, pid: String(pid) });
  }

  #tell(timeMs: number, level: LogLevel, message: string, about: Readonly<Record<string, string>>): void {
    if (this.#entries.length >= linesPerPageMax) this.#droppedLines += 1;
    else this.#entries.push({ timeMs, level, message, fields: { logger: "process", ...about } });
  }

  #takeEntries(): LogEntry[] {
    const entries = this.#entries;
    if (this.#droppedLines > 0) {
      const message = `${this.#droppedLines} lines were dropped: more was written than could be kept`;
      entries.push({ timeMs: this.#nowMs, level: "warn", message, fields: { logger: "process", event_type: "dropped" } });
    }
    this.#entries = [];
    this.#droppedLines = 0;
    return entries;
  }
}

function add(line: Unfinished, bytes: Uint8Array): void {
  const kept = bytes.subarray(0, lineBytesMax - line.text.length);
  line.text = line.text.length === 0 ? kept : Buffer.concat([line.text, kept]);
  line.cutBytes += bytes.length - kept.length;
}
