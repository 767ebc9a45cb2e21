import { closeSync, readSync } from "node:fs";

import type { DiskPath } from "./disk-path.ts";
import { errnoOf, systemError } from "./file-errors.ts";
import { libc } from "./libc.ts";

/** Bits of inotify(7) that matter here. */
export const inotifyMask = {
  modify: 0x2,
  attrib: 0x4,
  movedFrom: 0x40,
  movedTo: 0x80,
  create: 0x100,
  delete: 0x200,
  deleteSelf: 0x400,
  moveSelf: 0x800,
  unmount: 0x2000,
  overflow: 0x4000,
  ignored: 0x8000,
  onlyDir: 0x0100_0000,
  dontFollow: 0x0200_0000,
  isDir: 0x4000_0000,
} as const;

export interface InotifyEvent {
  readonly watch: number;
  readonly mask: number;
  /** joins the two halves of a rename */
  readonly cookie: number;
  /** name in the watched folder; undefined for what happened to the folder itself */
  readonly name: DiskPath | undefined;
}

const headerBytes = 16;
/** Bytes taken from the kernel at once, and between two turns of the event loop: about 2 000 events. */
const readBytes = 64 * 1024;

/**
 * One inotify instance on the event loop: no thread and no child waits for it, and nothing runs while nothing happens.
 *
 * An instance per watch, not one for all: the kernel's queue overflows per instance, so whoever does not keep up loses
 * only their own events.
 */
export class Inotify implements Disposable {
  readonly #descriptor: number;
  readonly #poll: { close(): void };
  readonly #buffer = Buffer.allocUnsafe(readBytes);
  readonly #onEvents: (events: readonly InotifyEvent[], drained: boolean) => void;
  #closed = false;

  /** `onEvents` gets events in order; `drained` when the kernel had no more at that moment. */
  constructor(onEvents: (events: readonly InotifyEvent[], drained: boolean) => void) {
    const descriptor = libc().inotifyInit();
    if (descriptor < 0) throw systemError("inotify_init1", descriptor, "");
    this.#descriptor = descriptor;
    this.#onEvents = onEvents;
    this.#poll = libc().pollReadable(descriptor, () => this.read());
  }

  /** The watch descriptor of a folder, the same one when it is watched already. Throws the system error. */
  add(folder: DiskPath, mask: number): number {
    const watch = libc().inotifyAdd(this.#descriptor, folder, mask);
    if (watch < 0) throw systemError("inotify_add_watch", watch, folder.toString());
    return watch;
  }

  remove(watch: number): void {
    libc().inotifyRemove(this.#descriptor, watch); // fails only where the folder is gone, and with it the watch
  }

  /** Reads what is there now, without waiting for the event loop to say so. */
  read(): void {
    if (this.#closed) return;
    let length: number;
    try {
      length = readSync(this.#descriptor, this.#buffer);
    } catch (error) {
      if (errnoOf(error) !== "EAGAIN") throw error;
      this.#onEvents([], true);
      return;
    }
    this.#onEvents(parseEvents(this.#buffer.subarray(0, length)), false);
    // The descriptor stays readable until the queue is empty, so the loop calls again, after others had their turn; only
    // the end of the queue would go unnoticed.
    if (length < readBytes / 2) setImmediate(() => this.read());
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#poll.close();
    closeSync(this.#descriptor);
  }
}

/** Events as read(2) returns them: the kernel never cuts one in two. */
export function parseEvents(bytes: Buffer): InotifyEvent[] {
  const events: InotifyEvent[] = [];
  for (let offset = 0; offset + headerBytes <= bytes.length;) {
    const length = bytes.readUInt32LE(offset + 12);
    const padded = bytes.subarray(offset + headerBytes, offset + headerBytes + length);
    events.push({
      watch: bytes.readInt32LE(offset),
      mask: bytes.readUInt32LE(offset + 4),
      cookie: bytes.readUInt32LE(offset + 8),
      name: length === 0 ? undefined : nameOf(padded),
    });
    offset += headerBytes + length;
  }
  return events;
}

function nameOf(padded: Buffer): DiskPath {
  const end = padded.indexOf(0);
  const bytes = end < 0 ? padded : padded.subarray(0, end);
  const text = bytes.toString("utf8");
  return Buffer.from(text).equals(bytes) ? text : Buffer.from(bytes); // a copy: the buffer is read into again
}
