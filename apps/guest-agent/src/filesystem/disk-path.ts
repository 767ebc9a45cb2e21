/**
 * A path as the disk has it: text where it is UTF-8, else bytes. Linux names are bytes without NUL and "/"; text with
 * replacement characters in it would name another file, or none.
 */
export type DiskPath = string | Buffer;

export function joinPath(folder: DiskPath, name: DiskPath): DiskPath {
  if (typeof folder === "string" && typeof name === "string") return folder === "/" ? `/${name}` : `${folder}/${name}`;
  return Buffer.concat([Buffer.from(folder), Buffer.from("/"), Buffer.from(name)]);
}

/** For people and for protobuf, whose strings must be UTF-8: bytes that are not become U+FFFD. */
export function shownPath(path: DiskPath): string {
  return typeof path === "string" ? path : path.toString("utf8");
}

/** The last part: "" for "/". */
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** Whether `inner` is `outer` or lies under it, by text. */
export function isWithin(inner: string, outer: string): boolean {
  return inner === outer || outer === "/" || inner.startsWith(`${outer}/`);
}
