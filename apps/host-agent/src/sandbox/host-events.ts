import { randomUUID } from "node:crypto";
import { closeSync, fdatasync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { promisify } from "node:util";

import { eventKinds, type EventKind } from "@roost/contract";
import { hour, syncFolder, type Logger } from "@roost/kit";
import { z } from "zod";

import type { LogStore } from "../logs/log-store.ts";
import type { SandboxRecord } from "./sandbox-record.ts";
import { untoldEvents } from "./untold-events.ts";
import type { Watchers } from "./watchers.ts";

/** Events that are told again to who begins to watch and had not heard of them: what happened while nobody did, and for how long in `ms` */
const rememberedMax = 1_000;
const rememberedMs = 7 * 24 * hour;
/** Lines of the file above which it is written anew with those that are remembered */
const linesMax = 4 * rememberedMax;

const datasync = promisify(fdatasync);

const hostEventSchema = z.object({
  id: z.uuid(),
  timeMs: z.number().int(),
  kind: z.enum(eventKinds),
  sandboxId: z.string().optional(),
  template: z.string().optional(),
  message: z.string(),
  detail: z.record(z.string(), z.string()),
});

const headSchema = z.object({ begunMs: z.number().int() });

/** Something that happened on this host, for users and operators. */
export interface HostEvent {
  /** Random: who hears of it twice knows by it */
  readonly id: string;
  readonly timeMs: number;
  readonly kind: EventKind;
  readonly sandboxId?: string | undefined;
  readonly template?: string | undefined;
  /** For people */
  readonly message: string;
  readonly detail: Readonly<Record<string, string>>;
}

export interface HostEventAbout {
  readonly sandboxId?: string;
  readonly template?: string;
  readonly message: string;
  readonly detail?: Readonly<Record<string, string>>;
}

export interface HostEventsParts {
  /** File that they are remembered in */
  readonly path: string;
  readonly watchers: Watchers<SandboxRecord>;
  readonly logs: LogStore;
  readonly log: Logger;
}

/**
 * Tells what happened: to the log, to the log of the sandbox, and to whoever watches the host, now or later.
 *
 * What happened is in a file before anybody is told that it did (`emit` writes, `durable` waits for the disk), a line for each event, so that neither the end of this process nor that of the host loses one. A crash between a
 * change of a sandbox and its event leaves a record that says more than the file: `catchUp` tells that then.
 */
export class HostEvents {
  readonly #parts: HostEventsParts;
  #recent: HostEvent[] = [];
  #file: number | undefined;
  #lines = 0;
  /** When this file was begun: of what happened before, in `ms`, nothing is in it */
  #begunMs = Date.now();
  #emitted = 0;
  #synced = 0;
  #syncing: Promise<void> | undefined;

  constructor(parts: HostEventsParts) {
    this.#parts = parts;
  }

  /** Reads what an earlier host agent remembered. Until then nothing is emitted. */
  open(): void {
    const { path, log } = this.#parts;
    let text = "";
    try {
      text = readFileSync(path, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error; // an earlier version's, or a new host's
    }
    const [head, ...lines] = text.split("\n").filter((line) => line !== "");
    this.#begunMs = (head === undefined ? undefined : parsed(head, headSchema))?.begunMs ?? this.#begunMs;
    const read = lines.flatMap((line) => parsed(line, hostEventSchema) ?? []);
    if (read.length < lines.length) log.warn({ path, lines: lines.length - read.length }, "some events cannot be read; they are left out");
    const sinceMs = Date.now() - rememberedMs;
    this.#recent = read.filter(({ timeMs }) => timeMs >= sinceMs).slice(-rememberedMax);
    this.#writeAnew();
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }

  /** The newest events, oldest first: those after the one with this id, or all where that is not among them. */
  since(lastId: string): readonly HostEvent[] {
    return this.#recent.slice(this.#recent.findIndex(({ id }) => id === lastId) + 1);
  }

  emit(kind: EventKind, about: HostEventAbout): void {
    const { sandboxId, template, message, detail = {} } = about;
    this.#parts.log.info({ event: kind, sandboxId, template, ...detail }, message);
    const event: HostEvent = { id: randomUUID(), timeMs: Date.now(), kind, sandboxId, template, message, detail };
    this.#remember(event);
    this.#parts.logs.tell(event);
    this.#parts.watchers.publish({ kind: "event", event });
  }

  /** Resolves when all that was emitted is on disk. A disk that fails is logged: what was emitted is told as long as this process lives. */
  async durable(): Promise<void> {
    const wanted = this.#emitted;
    while (this.#synced < wanted) await (this.#syncing ??= this.#sync());
  }

  /** Tells what the records of an earlier host agent say and its events do not: it ended between the one and the other. */
  catchUp(records: readonly SandboxRecord[]): void {
    const [oldest] = this.#recent;
    const trimmedMs = oldest === undefined || this.#recent.length < rememberedMax ? 0 : oldest.timeMs;
    const sinceMs = Math.max(this.#begunMs, Date.now() - rememberedMs, trimmedMs);
    for (const { kind, ...about } of untoldEvents(records, this.#recent, sinceMs)) this.emit(kind, about);
  }

  #remember(event: HostEvent): void {
    this.#emitted += 1;
    this.#recent.push(event);
    if (this.#recent.length > rememberedMax) this.#recent.shift();
    try {
      if (this.#lines >= linesMax) this.#writeAnew();
      else this.#append(event);
    } catch (error) {
      this.#parts.log.error(
        { err: error, event: event.kind },
        "an event could not be written down; it is told as long as this process lives",
      );
    }
  }

  #append(event: HostEvent): void {
    if (this.#file === undefined) return; // at an end nobody is left to be told
    writeSync(this.#file, `${JSON.stringify(event)}\n`);
    this.#lines += 1;
  }

  /** The file as a whole; seldom, so that it may take a moment. */
  #writeAnew(): void {
    const { path } = this.#parts;
    const staging = `${path}.tmp`;
    const lines = [{ begunMs: this.#begunMs }, ...this.#recent].map((line) => `${JSON.stringify(line)}\n`);
    writeFileSync(staging, lines.join(""), { mode: 0o600 });
    const next = openSync(staging, "a");
    fsyncSync(next);
    renameSync(staging, path);
    this.close();
    this.#file = next;
    this.#lines = this.#recent.length;
  }

  async #sync(): Promise<void> {
    const upTo = this.#emitted;
    try {
      if (this.#file !== undefined) await datasync(this.#file);
      await syncFolder(dirname(this.#parts.path)); // it may have been written anew
    } catch (error) {
      this.#parts.log.error({ err: error }, "events could not be made durable");
    } finally {
      this.#synced = upTo;
      this.#syncing = undefined;
    }
  }
}

/** Undefined: a line that was being written when the host ended. */
function parsed<Line>(line: string, schema: z.ZodType<Line>): Line | undefined {
  try {
    return schema.parse(JSON.parse(line));
  } catch {
    return undefined;
  }
}
