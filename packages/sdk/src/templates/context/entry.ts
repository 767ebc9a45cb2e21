/** Something of a context folder, as an archive has it. */
export type ContextEntry = {
  /** In the archive: names with `/` between them, none of them `..` */
  readonly path: string;
  /** Permissions, setuid, setgid and sticky bits */
  readonly mode: number;
} & (
  | { readonly kind: "folder" }
  | { readonly kind: "link"; readonly target: string }
  /** A file of this machine, as big as when it was found */
  | { readonly kind: "file"; readonly size: number; readonly file: string }
  /** One whose content stands in the Dockerfile */
  | { readonly kind: "inline"; readonly content: string }
);

/** By code units, whatever the machine's language: the same files are always in the same order. */
export function byPath(a: { readonly path: string }, b: { readonly path: string }): number {
  return a.path < b.path ? -1 : a.path > b.path ? 1 : 0;
}
