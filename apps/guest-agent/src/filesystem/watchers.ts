import { randomBytes } from "node:crypto";
import { realpath, stat } from "node:fs/promises";

import { Code, ConnectError } from "@connectrpc/connect";
import { minute, type Logger } from "@roost/kit";

import { isWithin } from "./disk-path.ts";
import type { WatchEvent } from "./event-queue.ts";
import { toConnectError } from "./file-errors.ts";
import { FolderWatch } from "./folder-watch.ts";
import { isOnNetworkMount, readMounts } from "./mounts.ts";

/** Watches at once, streamed and polled. Each is an inotify instance, of which Linux grants a user 128: others need some too. */
export const watchersMax = 96;
/** A polled watcher nobody polls for this long in `ms` is removed: its client is gone, and could not say so. */
export const watcherIdleMs = 30 * minute;

export interface WatchRequest {
  /** Absolute path of a folder. */
  readonly path: string;
  readonly recursive: boolean;
  readonly allowNetworkMounts: boolean;
}

interface PolledWatcher {
  readonly watch: FolderWatch;
  readonly includeEntry: boolean;
  readonly idle: NodeJS.Timeout;
}

/** Every watch of the agent: those of streams, which end with them, and those that are polled, which have ids. */
export class Watchers {
  readonly #log: Logger;
  readonly #options: { readonly queuedEventsMax?: number };
  readonly #polled = new Map<string, PolledWatcher>();
  #streams = 0;
  /** watches being set up: they count, so that the limit holds while many come at once */
  #opening = 0;

  constructor(log: Logger, options: { readonly queuedEventsMax?: number } = {}) {
    this.#log = log;
    this.#options = options;
  }

  get size(): number {
    return this.#polled.size + this.#streams;
  }

  /** A watch that lives until disposed. */
  async openStream(request: WatchRequest, signal: AbortSignal): Promise<{ watch: FolderWatch } & Disposable> {
    const watch = await this.#open(request, signal);
    this.#streams += 1;
    let released = false;
    return {
      watch,
      [Symbol.dispose]: () => {
        if (released) return;
        released = true;
        this.#streams -= 1;
        watch[Symbol.dispose]();
      },
    };
  }

  /** Id of a new polled watcher. */
  async create(request: WatchRequest, includeEntry: boolean, signal: AbortSignal): Promise<string> {
    const watch = await this.#open(request, signal);
    const id = `w${randomBytes(10).toString("hex")}`;
    const idle = setTimeout(() => {
      this.#log.info({ watcherId: id, path: request.path }, "watcher was not polled any more and is removed");
      this.#remove(id);
    }, watcherIdleMs);
    idle.unref();
    this.#polled.set(id, { watch, includeEntry, idle });
    return id;
  }

  /** What happened since the last call. Throws `not_found`, or why the watch ended. */
  drain(id: string): { readonly events: readonly WatchEvent[]; readonly includeEntry: boolean } {
    const watcher = this.#mustFind(id);
    watcher.idle.refresh();
    return { events: watcher.watch.events.drain(), includeEntry: watcher.includeEntry };
  }

  /** Throws `not_found`. */
  remove(id: string): void {
    this.#mustFind(id);
    this.#remove(id);
  }

  /** Ends all polled watchers; streams end with their connections. */
  close(): void {
    for (const id of this.#polled.keys()) this.#remove(id);
  }

  #remove(id: string): void {
    const watcher = this.#polled.get(id);
    if (watcher === undefined) return;
    this.#polled.delete(id);
    clearTimeout(watcher.idle);
    watcher.watch[Symbol.dispose]();
  }

  #mustFind(id: string): PolledWatcher {
    const watcher = this.#polled.get(id);
    if (watcher === undefined) throw new ConnectError(`watcher with id ${id.slice(0, 64)} not found`, Code.NotFound);
    return watcher;
  }

  async #open(request: WatchRequest, signal: AbortSignal): Promise<FolderWatch> {
    if (this.size + this.#opening >= watchersMax) {
      throw new ConnectError(`at most ${watchersMax} watches at once; remove one first`, Code.ResourceExhausted);
    }
    this.#opening += 1;
    try {
      return await openWatch(request, this.#options, signal);
    } catch (error) {
      throw toConnectError(error, request.path);
    } finally {
      this.#opening -= 1;
    }
  }
}

async function openWatch(request: WatchRequest, limits: { readonly queuedEventsMax?: number }, signal: AbortSignal): Promise<FolderWatch> {
  const mounts = await readMounts();
  // The table first: asking a mount whose daemon is dead would wait for ever.
  const refuse = (path: string) => {
    if (request.allowNetworkMounts || !isOnNetworkMount(path, mounts)) return;
    throw new ConnectError(`cannot watch path on network filesystem: ${request.path}`, Code.InvalidArgument);
  };
  refuse(request.path);
  const root = await realpath(request.path);
  refuse(root);
  if (!(await stat(root)).isDirectory()) throw new ConnectError(`path ${request.path} is not a directory`, Code.InvalidArgument);
  const excluded = request.allowNetworkMounts ? [] : mounts.filter((mount) => mount.isNetwork && isWithin(mount.folder, root));
  const options = { ...limits, recursive: request.recursive, excluded: new Set(excluded.map((mount) => mount.folder)) };
  return FolderWatch.open(root, options, signal);
}
