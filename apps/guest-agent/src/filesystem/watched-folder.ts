import { joinPath, type DiskPath } from "./disk-path.ts";

/**
 * A folder under watch, as a node of a tree that follows renames: a moved folder takes its descendants along without
 * touching them, because a path is asked for from the leaf up.
 */
export class WatchedFolder {
  readonly watch: number;
  readonly #children = new Map<string, WatchedFolder>();
  #parent: WatchedFolder | undefined;
  #name: DiskPath;

  /** The root's name is its absolute path. */
  constructor(watch: number, name: DiskPath, parent?: WatchedFolder) {
    this.watch = watch;
    this.#name = name;
    this.#parent = parent;
    if (parent !== undefined) parent.#children.set(keyOf(name), this);
  }

  get isRoot(): boolean {
    return this.#parent === undefined;
  }

  /** Where it hangs; undefined for the root. */
  get place(): { readonly parent: WatchedFolder; readonly name: DiskPath } | undefined {
    return this.#parent === undefined ? undefined : { parent: this.#parent, name: this.#name };
  }

  get path(): DiskPath {
    return this.#parent === undefined ? this.#name : joinPath(this.#parent.path, this.#name);
  }

  /** Path under the root: "" for the root itself. */
  get relative(): DiskPath {
    if (this.#parent === undefined) return "";
    const above = this.#parent.relative;
    return above.length === 0 ? this.#name : joinPath(above, this.#name);
  }

  child(name: DiskPath): WatchedFolder | undefined {
    return this.#children.get(keyOf(name));
  }

  /** Takes the folder out of its parent; it still knows its descendants. */
  detach(): void {
    if (this.#parent?.child(this.#name) === this) this.#parent.#children.delete(keyOf(this.#name));
  }

  attach(parent: WatchedFolder, name: DiskPath): void {
    this.detach();
    this.#parent = parent;
    this.#name = name;
    parent.#children.set(keyOf(name), this);
  }

  /** This folder and everything under it. */
  *all(): Generator<WatchedFolder> {
    const left: WatchedFolder[] = [this];
    for (let folder = left.pop(); folder !== undefined; folder = left.pop()) {
      yield folder;
      left.push(...folder.#children.values());
    }
  }
}

/** Names as map keys, bytes apart from text that looks like them. */
export function keyOf(name: DiskPath): string {
  return typeof name === "string" ? name : `\0${name.toString("latin1")}`;
}
