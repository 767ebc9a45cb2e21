import type { FileHandle } from "node:fs/promises";

import { must } from "@roost/kit";

import { attributeBytesMax, depthMax, entriesMax, linksFollowedMax, nameBytesMax, pathBytesMax } from "./limits.ts";
import { damagedTar } from "./tar-header.ts";
import type { Piece, TarEntry, TarEntryKind } from "./tar-reader.ts";
import { quoted, unusable } from "./unusable.ts";

/**
 * What an image's layers show together: a tree of names in memory, made by applying one layer after another. Contents stay where they are. Nothing is ever made on the host's own
 * file system, so there is nothing that a path, a link or a device of a layer could reach: `..` and links lead about in this tree, and end at its root.
 *
 * Layers are applied as the OCI image specification says, with containerd's reading of what it leaves open:
 *
 * - Whiteouts hide what lower layers have, wherever in the layer they stand; never what their own layer has.
 * - A folder over a folder keeps its content and gets other owners, mode and attributes; anything else replaces.
 * - A path that leads over a symbolic link follows it: `lib/x` in a layer over a root whose `lib` is a link to `usr/lib` adds to that, and does not take the link away.
 * - A link's target is what its name means at that moment, in its own layer or a lower one, even if the layer hides that name.
 */
export interface Inode {
  readonly kind: Exclude<TarEntryKind, "link">;
  mode: number;
  uid: number;
  gid: number;
  timeSec: number;
  attributes: ReadonlyMap<string, Buffer>;
  readonly target: string;
  readonly major: number;
  readonly minor: number;
  readonly size: number;
  readonly pieces: readonly Piece[];
  /** Where the pieces are; null: it has none */
  readonly file: FileHandle | null;
  /** Has more than one name, or had */
  isLinked: boolean;
}

export interface Folder extends Inode {
  readonly kind: "folder";
  readonly children: Map<string, Inode>;
  /** What the layer that is being applied hides */
  hidden: Map<string, Inode> | null;
}

/** What of an image may be read before it is refused; shared by all its layers. */
export interface Budget {
  entries: number;
  /** Contents of files, holes too, in `bytes` */
  bytes: number;
  readonly bytesMax: number;
}

const whiteoutPrefix = ".wh.";
/** Of names that only the storage drivers of old use among themselves */
const reservedPrefix = ".wh..wh.";
const opaqueName = ".wh..wh..opq";

/** A Linux uid or gid; the last one means "none" */
const idMax = 4_294_967_294;
/** Of what ext4's tools take: from 1901 to 2038, in `s` since 1970 */
const timeSecMin = -(2 ** 31);
const timeSecMax = 2 ** 31 - 1;

/** Folders that a guest's boot mounts over, and that any program expects. */
const expectedFolders: readonly (readonly [string, number])[] = [
  ["dev", 0o755],
  ["proc", 0o555],
  ["run", 0o755],
  ["sys", 0o555],
  ["tmp", 0o1777],
];

export class ImageTree {
  readonly root: Folder;
  readonly #budget: Budget;
  readonly #timeSec: number;

  /** `timeSec` is the time of folders that no layer has, but something in them. */
  constructor(budget: Budget, timeSec: number) {
    this.#budget = budget;
    this.#timeSec = timeSec;
    this.root = this.#newFolder();
  }

  /** Puts a layer over what is there. Throws `image_unusable` for what no file system could hold, or what is too much. */
  async apply(entries: AsyncIterable<TarEntry>, file: FileHandle): Promise<void> {
    const added: TarEntry[] = [];
    const hiding: Folder[] = [];
    for await (const entry of entries) {
      this.#count(entry);
      const names = namesOf(entry.path);
      const name = names.at(-1);
      if (name?.startsWith(whiteoutPrefix) === true) this.#hide(names.slice(0, -1), name, hiding);
      else added.push(entry);
    }
    for (const entry of added) this.#add(entry, file);
    for (const folder of hiding) folder.hidden = null;
  }

  /** Adds what a guest's boot needs to find. */
  complete(): void {
    for (const [name, mode] of expectedFolders) {
      if (this.root.children.get(name)?.kind !== "folder") this.root.children.set(name, { ...this.#newFolder(), mode });
    }
  }

  #count(entry: TarEntry): void {
    const budget = this.#budget;
    budget.entries += 1;
    budget.bytes += entry.size;
    if (budget.entries > entriesMax) throw unusable(`the image has more than ${entriesMax} files; make it smaller`);
    if (budget.bytes > budget.bytesMax) throw tooLarge(budget.bytesMax);
  }

  #hide(parents: readonly string[], name: string, hiding: Folder[]): void {
    const folder = this.#find(parents, "visible");
    if (!isFolder(folder)) return;
    const { children } = folder;
    const hide = (hiddenName: string) => {
      const child = children.get(hiddenName);
      if (child === undefined) return;
      children.delete(hiddenName);
      if (folder.hidden === null) hiding.push(folder);
      (folder.hidden ??= new Map()).set(hiddenName, child);
    };
    if (name === opaqueName) for (const each of children.keys()) hide(each);
    else if (!name.startsWith(reservedPrefix)) hide(name.slice(whiteoutPrefix.length));
  }

  #add(entry: TarEntry, file: FileHandle): void {
    const names = namesOf(entry.path);
    const name = names.pop();
    if (name === undefined) {
      if (entry.kind === "folder") Object.assign(this.root, this.#metadata(entry));
      return;
    }
    const folder = this.#makeFolders(names);
    const present = folder.children.get(name);
    if (entry.kind === "folder" && present?.kind === "folder") {
      Object.assign(present, this.#metadata(entry));
      return;
    }
    folder.children.set(name, entry.kind === "link" ? this.#linked(entry) : this.#newInode(entry, entry.kind, file));
  }

  #newInode(entry: TarEntry, kind: Inode["kind"], file: FileHandle): Inode {
    if (kind === "folder") return { ...this.#newFolder(), ...this.#metadata(entry) };
    if (kind === "symlink" && (entry.target === "" || entry.target.length > pathBytesMax || entry.target.includes("\0"))) {
      throw damagedTar("a symbolic link has an empty target, or one that is too long");
    }
    const isDevice = kind === "character" || kind === "block";
    if (isDevice && (!isWithin(entry.major, 0, 0xfff) || !isWithin(entry.minor, 0, 0xfffff))) {
      throw damagedTar("a device has a number that Linux does not know");
    }
    return {
      kind,
      ...this.#metadata(entry),
      target: kind === "symlink" ? entry.target : "",
      major: isDevice ? entry.major : 0,
      minor: isDevice ? entry.minor : 0,
      size: entry.size,
      pieces: entry.pieces,
      file: entry.pieces.length === 0 ? null : file,
      isLinked: false,
    };
  }

  #linked(entry: TarEntry): Inode {
    const target = this.#find(namesOf(entry.target), "hidden too");
    if (target === undefined)
      throw damagedTar(`the link ${quoted(entry.path)} leads to ${quoted(entry.target)}, which is not in the image`);
    if (target.kind === "folder") throw damagedTar(`the link ${quoted(entry.path)} leads to a folder`);
    target.isLinked = true;
    return target;
  }

  #metadata(entry: TarEntry): Pick<Inode, "mode" | "uid" | "gid" | "timeSec" | "attributes"> {
    if (!isWithin(entry.uid, 0, idMax) || !isWithin(entry.gid, 0, idMax)) throw damagedTar("an owner's number is not one of Linux");
    return {
      mode: entry.kind === "symlink" ? 0o777 : entry.mode,
      uid: entry.uid,
      gid: entry.gid,
      timeSec: Math.min(timeSecMax, Math.max(timeSecMin, entry.timeSec)),
      attributes: keptAttributes(entry),
    };
  }

  #newFolder(): Folder {
    return {
      kind: "folder",
      mode: 0o755,
      uid: 0,
      gid: 0,
      timeSec: this.#timeSec,
      attributes: noAttributes,
      target: "",
      major: 0,
      minor: 0,
      size: 0,
      pieces: [],
      file: null,
      isLinked: false,
      children: new Map(),
      hidden: null,
    };
  }

  /** The folder of that path, made where it is missing. */
  #makeFolders(names: readonly string[]): Folder {
    const found = this.#walk(names, (folder, name) => {
      const present = folder.children.get(name);
      if (present !== undefined) return present;
      this.#budget.entries += 1;
      const made = this.#newFolder();
      folder.children.set(name, made);
      return made;
    });
    if (!isFolder(found)) throw damagedTar(`${quoted(names.join("/"))} is not a folder, and has something in it`);
    return found;
  }

  /** What a path means; undefined when that is nothing. A symbolic link at its end is not followed. */
  #find(names: readonly string[], what: "visible" | "hidden too"): Inode | undefined {
    const look = (folder: Folder, name: string) =>
      folder.children.get(name) ?? (what === "hidden too" ? folder.hidden?.get(name) : undefined);
    const parents = names.slice(0, -1);
    const name = names.at(-1);
    if (name === undefined) return this.root;
    if (what === "visible") return this.#walk(names, look); // a folder is looked for
    const folder = this.#walk(parents, look);
    return folder !== undefined && isFolder(folder) ? look(folder, name) : undefined;
  }

  /** Goes along a path, over symbolic links too, never above the root. */
  #walk(names: readonly string[], next: (folder: Folder, name: string) => Inode | undefined): Inode | undefined {
    const way: Folder[] = [this.root];
    const ahead = names.toReversed();
    let followed = 0;
    for (let name = ahead.pop(); name !== undefined; name = ahead.pop()) {
      if (name === "" || name === ".") continue;
      if (name === "..") {
        if (way.length > 1) way.pop();
        continue;
      }
      const found = next(must(way.at(-1), "a way begins at the root"), name);
      if (found === undefined) return undefined;
      if (isFolder(found)) {
        way.push(found);
        if (way.length > depthMax) throw unusable(`the image has more than ${depthMax} folders within each other; make it flatter`);
        continue;
      }
      if (found.kind !== "symlink") return ahead.length === 0 ? found : undefined;
      followed += 1;
      if (followed > linksFollowedMax) throw damagedTar(`${quoted(names.join("/"))} leads around in a circle of links`);
      if (found.target.startsWith("/")) way.length = 1;
      ahead.push(...found.target.split("/").toReversed());
    }
    return way.at(-1);
  }
}

function isFolder(inode: Inode | undefined): inode is Folder {
  return inode?.kind === "folder";
}

function isWithin(value: number, min: number, max: number): boolean {
  return Number.isSafeInteger(value) && value >= min && value <= max;
}

/** The names of a path below the root; throws for one that leads out of it. */
function namesOf(path: string): string[] {
  if (path.length > pathBytesMax) throw unusable(`the image has a path of more than ${pathBytesMax} bytes`);
  const names: string[] = [];
  for (const name of path.split("/")) {
    if (name === "" || name === ".") continue;
    if (name === "..") {
      if (names.pop() === undefined)
        throw unusable(`the image has the path ${quoted(path)}, which leads outside of it; it is not safe to use`);
    } else if (name.length > nameBytesMax) throw unusable(`the image has a name of more than ${nameBytesMax} bytes: ${quoted(name)}`);
    else if (name.includes("\0")) throw damagedTar("a name holds a zero byte");
    else names.push(name);
  }
  return names;
}

const noAttributes: ReadonlyMap<string, Buffer> = new Map();

/** Those that a root file system in ext4 can have. What is left out (other systems', a build machine's SELinux labels) is what Docker leaves out, too. */
function keptAttributes({ path, attributes }: TarEntry): ReadonlyMap<string, Buffer> {
  if (attributes.size === 0) return noAttributes;
  const kept = new Map<string, Buffer>();
  let bytes = 0;
  for (const [name, value] of attributes) {
    if (
      !/^(user|trusted|security)\.[\x21\x23-\x26\x28-\x5b\x5d-\x7e]{1,240}$/.test(name) &&
      !/^system\.posix_acl_(access|default)$/.test(name)
    )
      continue;
    if (name === "security.selinux" || name.startsWith("trusted.overlay.")) continue;
    bytes += name.length + value.length;
    kept.set(name, value);
  }
  if (bytes > attributeBytesMax)
    throw unusable(`${quoted(path)} in the image has extended attributes of more than ${attributeBytesMax} bytes`);
  return kept;
}

export function tooLarge(bytesMax: number) {
  return unusable(
    `the image has more than ${Math.trunc(bytesMax / 2 ** 20)} MiB of files; make it smaller, or ask the operator to raise ROOST_IMPORT_MAX_MIB`,
  );
}
