import { lstatSync } from "node:fs";

import { Code, ConnectError } from "@connectrpc/connect";
import { EventType } from "@roost/contract/gen/filesystem/filesystem_pb.js";

import { joinPath, shownPath, type DiskPath } from "./disk-path.ts";
import { EventQueue } from "./event-queue.ts";
import { errnoOf, isMissing, toConnectError } from "./file-errors.ts";
import { Inotify, inotifyMask, type InotifyEvent } from "./inotify.ts";
import { readFolder, readFolderSync, type FolderItem } from "./read-folder.ts";
import { isNameless, stagingPurpose, type StagingPurpose } from "./staging-name.ts";
import { keyOf, WatchedFolder } from "./watched-folder.ts";

/** Folders of one recursive watch; the kernel's own limit for the whole guest is about as high. */
export const watchedFoldersMax = 8_192;

const { create, delete: removed, modify, attrib, movedFrom, movedTo } = inotifyMask;
const folderMask = create | removed | modify | attrib | movedFrom | movedTo | inotifyMask.onlyDir;
const rootMask = folderMask | inotifyMask.deleteSelf | inotifyMask.moveSelf;
const innerMask = folderMask | inotifyMask.dontFollow;

/** A folder that left its place: whether it went to another one under watch is known when the other half comes. */
interface PendingMove {
  readonly folder: WatchedFolder;
  drainsLeft: number;
}

export interface FolderWatchOptions {
  readonly recursive: boolean;
  /** Absolute folders that are not entered: mounts that may not be watched. */
  readonly excluded: ReadonlySet<string>;
  /** Events that may wait for the reader; default `queuedEventsMax`. */
  readonly queuedEventsMax?: number;
}

/**
 * What happens in a folder, and in the folders under it, as events with relative names.
 *
 * inotify watches single folders, so a recursive watch adds one for each new folder, and things may be made in it
 * before the watch is there. So: watch first, then look, and report what is there as created. What was both seen and
 * reported by the kernel is one event: names seen are remembered until the kernel's queue has been read to its end.
 *
 * Events tell of the past, paths lead to the present: a folder may have moved when we come to watch it. What is not
 * found under its name is looked for again when the queue is empty, and with it the moves are known.
 *
 * A folder that moves inside the tree keeps its watches; only its own rename is reported. One that moves in from
 * outside is new, with all it holds; one that moves out is forgotten.
 */
export class FolderWatch implements Disposable {
  readonly events: EventQueue;
  readonly #options: FolderWatchOptions;
  readonly #inotify: Inotify;
  readonly #root: WatchedFolder;
  readonly #folders = new Map<number, WatchedFolder>();
  readonly #announced = new Map<WatchedFolder, Set<string>>();
  readonly #moves = new Map<number, PendingMove>();
  readonly #missed = new Map<WatchedFolder, Map<string, DiskPath>>();
  readonly #stagingMoves = new Map<number, StagingPurpose>();

  /** Watches `root`, an absolute path to a folder; resolves when every folder under it is watched too. */
  static async open(root: string, options: FolderWatchOptions, signal: AbortSignal): Promise<FolderWatch> {
    const watch = new FolderWatch(root, options);
    try {
      if (options.recursive) await watch.#enterExisting(signal);
      return watch;
    } catch (error) {
      watch[Symbol.dispose]();
      throw error;
    }
  }

  private constructor(root: string, options: FolderWatchOptions) {
    this.#options = options;
    this.events = new EventQueue(options.queuedEventsMax);
    this.#inotify = new Inotify((events, drained) => {
      try {
        for (const event of events) this.#take(event);
        if (drained) this.#settle();
      } catch (error) {
        this.#fail(toConnectError(error, root)); // a disk that does not answer ends this watch, not the agent
      }
    });
    try {
      this.#root = new WatchedFolder(this.#inotify.add(root, rootMask), root);
    } catch (error) {
      this.#inotify[Symbol.dispose]();
      throw describe(error, root);
    }
    this.#folders.set(this.#root.watch, this.#root);
  }

  /** Number of folders under watch. */
  get size(): number {
    return this.#folders.size;
  }

  [Symbol.dispose](): void {
    this.events.end();
    this.#stop();
  }

  /** The folders that are there at the start: nothing of them is news, so other requests may have their turn between. */
  async #enterExisting(signal: AbortSignal): Promise<void> {
    const left = [this.#root];
    for (let folder = left.pop(); folder !== undefined; folder = left.pop()) {
      signal.throwIfAborted();
      const items = await readFolder(folder.path).catch(emptyIfMissing);
      for (const item of items) {
        const entered = item.isFolder ? this.#enter(folder, item.name) : undefined;
        if (entered !== undefined) left.push(entered);
      }
      if (!this.events.isOpen) this.events.drain(); // throws what went wrong
    }
  }

  #take(event: InotifyEvent): void {
    if (event.mask & inotifyMask.overflow) {
      this.#fail(new ConnectError("events were lost: more came than the kernel could keep; watch again", Code.ResourceExhausted));
      return;
    }
    const folder = this.#folders.get(event.watch);
    if (folder === undefined) return; // a folder that is out of the watch already
    if (event.mask & inotifyMask.ignored) this.#folders.delete(event.watch);
    else if (event.name === undefined) this.#takeSelf(folder, event);
    else if (!this.#takeStaging(folder, event.name, event)) this.#takeNamed(folder, event.name, event);
  }

  /** Of what happens to a folder itself only the root's is news: the others' parents tell it. */
  #takeSelf(folder: WatchedFolder, event: InotifyEvent): void {
    if (!folder.isRoot) return;
    const type =
      event.mask & (inotifyMask.deleteSelf | inotifyMask.unmount)
        ? EventType.REMOVE
        : event.mask & inotifyMask.moveSelf
          ? EventType.RENAME
          : EventType.CHMOD;
    this.events.push({ name: ".", type, path: folder.path });
    if (type === EventType.REMOVE) this.events.end();
  }

  /** Whether the event is about a file of ours that is about to take another's place; the taking is news, the rest is not. */
  #takeStaging(folder: WatchedFolder, name: DiskPath, event: InotifyEvent): boolean {
    if (isNameless(name)) return true;
    const purpose = stagingPurpose(name);
    if (purpose !== undefined) {
      if (event.mask & movedFrom) this.#stagingMoves.set(event.cookie, purpose);
      return true;
    }
    const arrived = event.mask & movedTo ? this.#stagingMoves.get(event.cookie) : undefined;
    if (arrived === undefined) return false;
    this.#stagingMoves.delete(event.cookie);
    if (arrived === "create" && !this.#wasAnnounced(folder, name)) this.#emit(folder, name, EventType.CREATE);
    this.#emit(folder, name, EventType.WRITE);
    return true;
  }

  #takeNamed(folder: WatchedFolder, name: DiskPath, event: InotifyEvent): void {
    const isFolder = (event.mask & inotifyMask.isDir) !== 0;
    if (event.mask & create) this.#appear(folder, name, isFolder);
    else if (event.mask & movedTo) this.#arrive(folder, name, isFolder, event.cookie);
    else if (event.mask & movedFrom) this.#leave(folder, name, event.cookie);
    else if (event.mask & removed) {
      this.#forget(folder, name);
      folder.child(name)?.detach();
      this.#emit(folder, name, EventType.REMOVE);
    } else this.#emit(folder, name, event.mask & attrib ? EventType.CHMOD : EventType.WRITE);
  }

  #appear(folder: WatchedFolder, name: DiskPath, isFolder: boolean): void {
    if (this.#wasAnnounced(folder, name)) return;
    this.#emit(folder, name, EventType.CREATE);
    if (isFolder && this.#options.recursive) this.#enterNew(folder, name);
  }

  #leave(folder: WatchedFolder, name: DiskPath, cookie: number): void {
    this.#forget(folder, name);
    this.#emit(folder, name, EventType.RENAME);
    const child = folder.child(name);
    if (child === undefined) return;
    child.detach();
    this.#moves.set(cookie, { folder: child, drainsLeft: 1 });
  }

  #arrive(folder: WatchedFolder, name: DiskPath, isFolder: boolean, cookie: number): void {
    const move = this.#moves.get(cookie);
    if (move === undefined) {
      this.#appear(folder, name, isFolder);
      return;
    }
    this.#moves.delete(cookie);
    this.#forget(folder, name);
    folder.child(name)?.detach(); // an empty folder that was replaced
    move.folder.attach(folder, name);
    this.#emit(folder, name, EventType.CREATE);
  }

  /** The kernel's queue is read to its end: what was seen by looking can no longer come as an event. */
  #settle(): void {
    this.#announced.clear();
    for (const [cookie, move] of this.#moves) {
      if (move.drainsLeft > 0) {
        move.drainsLeft -= 1; // the two halves of a move are queued one after the other, and we may have looked in between
        setImmediate(() => this.#inotify.read());
        continue;
      }
      this.#moves.delete(cookie);
      for (const gone of move.folder.all()) {
        this.#folders.delete(gone.watch);
        this.#inotify.remove(gone.watch);
      }
    }
    this.#lookAgain();
  }

  /** Folders that were not where they should have been: by now the moves that took them along are known. */
  #lookAgain(): void {
    const missed = [...this.#missed];
    this.#missed.clear();
    for (const [folder, names] of missed) {
      if (this.#folders.get(folder.watch) !== folder) continue;
      for (const name of names.values()) if (folder.child(name) === undefined) this.#enterNew(folder, name);
    }
  }

  /** Watches a new folder and all in it, and reports all in it as created. */
  #enterNew(parent: WatchedFolder, name: DiskPath): void {
    const left = [this.#enter(parent, name)];
    while (left.length > 0 && this.events.isOpen) {
      const folder = left.pop();
      if (folder === undefined) continue;
      for (const item of itemsNow(folder.path)) {
        if (stagingPurpose(item.name) !== undefined) continue; // its arrival under its real name will tell
        this.#remember(folder, item.name);
        this.#emit(folder, item.name, EventType.CREATE);
        if (item.isFolder) left.push(this.#enter(folder, item.name));
      }
    }
  }

  /** Watches one folder. Undefined when there is nothing to do: it is gone, excluded, or known under another name. */
  #enter(parent: WatchedFolder, name: DiskPath): WatchedFolder | undefined {
    const path = joinPath(parent.path, name);
    if (!this.events.isOpen || this.#options.excluded.has(shownPath(path))) return undefined;
    let watch: number;
    try {
      watch = this.#inotify.add(path, innerMask);
    } catch (error) {
      if (isMissing(error)) this.#miss(parent, name);
      else this.#fail(describe(error, shownPath(path)));
      return undefined;
    }
    const known = this.#folders.get(watch);
    if (known !== undefined) return known === parent.child(name) || this.#takeBack(known, parent, name) ? known : undefined;
    const folder = new WatchedFolder(watch, name, parent);
    this.#folders.set(watch, folder);
    if (this.#folders.size > watchedFoldersMax) {
      this.#fail(new ConnectError(`more than ${watchedFoldersMax} folders to watch; watch a smaller tree`, Code.ResourceExhausted));
    }
    return folder;
  }

  /**
   * A folder is known under another name. It may be mounted twice: then that stays. Else it has moved here, perhaps
   * before its new parent was watched, so that nobody will tell; or the other name was looked up too late and led here
   * by mistake, and is looked for again. Whether it was taken from there.
   */
  #takeBack(known: WatchedFolder, parent: WatchedFolder, name: DiskPath): boolean {
    const { place } = known;
    const recorded = inodeOf(known.path);
    if (place === undefined || recorded === inodeOf(joinPath(parent.path, name))) return false;
    known.attach(parent, name);
    if (recorded !== undefined) this.#miss(place.parent, place.name);
    return true;
  }

  #miss(parent: WatchedFolder, name: DiskPath): void {
    const names = this.#missed.get(parent) ?? new Map<string, DiskPath>();
    names.set(keyOf(name), name);
    this.#missed.set(parent, names);
  }

  #emit(folder: WatchedFolder, name: DiskPath, type: EventType): void {
    const above = folder.relative;
    this.events.push({ name: shownPath(above.length === 0 ? name : joinPath(above, name)), type, path: joinPath(folder.path, name) });
    if (!this.events.isOpen) this.#stop();
  }

  #remember(folder: WatchedFolder, name: DiskPath): void {
    const names = this.#announced.get(folder) ?? new Set();
    names.add(keyOf(name));
    this.#announced.set(folder, names);
  }

  /** Whether a name was reported by looking, and forgets it: the next event about it is news. */
  #wasAnnounced(folder: WatchedFolder, name: DiskPath): boolean {
    return this.#announced.get(folder)?.delete(keyOf(name)) ?? false;
  }

  /** What was at this name is elsewhere or nowhere. */
  #forget(folder: WatchedFolder, name: DiskPath): void {
    this.#wasAnnounced(folder, name);
    this.#missed.get(folder)?.delete(keyOf(name));
  }

  #fail(error: ConnectError): void {
    this.events.fail(error);
    this.#stop();
  }

  /** Nothing further will be told, so the kernel need not keep anything for us. */
  #stop(): void {
    this.#inotify[Symbol.dispose]();
    this.#folders.clear();
    this.#announced.clear();
    this.#moves.clear();
    this.#missed.clear();
  }
}

function inodeOf(path: DiskPath): bigint | undefined {
  return lstatSync(path, { throwIfNoEntry: false, bigint: true })?.ino;
}

function itemsNow(path: DiskPath): FolderItem[] {
  try {
    return readFolderSync(path);
  } catch (error) {
    return emptyIfMissing(error);
  }
}

/** Gone again, or not ours to read (a folder of another file system's rules): nothing to report either way. */
function emptyIfMissing(error: unknown): [] {
  if (isMissing(error) || errnoOf(error) === "EACCES") return [];
  throw error;
}

function describe(error: unknown, path: string): ConnectError {
  if (errnoOf(error) === "ENOSPC") {
    return new ConnectError(`${path}: this sandbox can watch no more folders (fs.inotify.max_user_watches)`, Code.ResourceExhausted);
  }
  if (errnoOf(error) === "EMFILE") {
    return new ConnectError("this sandbox can open no more watches (fs.inotify.max_user_instances)", Code.ResourceExhausted);
  }
  return toConnectError(error, path);
}
