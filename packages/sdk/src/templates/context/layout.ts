import { open } from "node:fs/promises";
import { basename } from "node:path";
import { gunzipSync } from "node:zlib";

import { RoostError } from "../../errors.ts";
import { isFolder, type LocalCopy } from "../recipe-plan.ts";
import type { ContextFolder, Found } from "./context-folder.ts";
import { byPath, type ContextEntry } from "./entry.ts";

/** Permissions of a file whose content stands in the Dockerfile */
const inlineMode = 0o644;
/** Of a folder that is in an archive only because its content is */
const folderMode = 0o755;

/** In an archive a build takes such a name for a pattern, as E2B's SDK sends them: what has one is arranged like what a pattern found */
const looksLikePattern = /[*?[\]{}]/;

/** What a COPY puts into its archive, and how the recipe's step names it. */
export interface CopyLayout {
  readonly entries: readonly ContextEntry[];
  /** What of the archive is copied: a file, a folder for what is in it, `.` for all */
  readonly source: string;
  readonly destination: string;
}

/**
 * A single file or folder stays where it is below the context folder, and is what the step names. Several, and what patterns match, are arranged here as they are to lie in the destination
 * folder: Docker's rules for names are then followed in one place, and a build needs no pattern of ours.
 */
export async function layOut(copy: LocalCopy, context: ContextFolder | undefined): Promise<CopyLayout> {
  const found: Found[] = [];
  for (const source of copy.sources) {
    if (context === undefined) throw new RoostError("context_invalid", "there is no context folder to copy from; name one");
    found.push(...(await context.find(source)));
  }
  if (copy.isAdd) for (const one of found) await refuseArchive(one);
  const [only] = found;
  if (only !== undefined && found.length === 1 && copy.inline.length === 0 && !looksLikePattern.test(only.path)) {
    const { path } = only;
    const entries = await only.entries(path);
    if (only.isFolder && path !== "") entries.unshift({ kind: "folder", path, mode: folderMode });
    return { entries, source: path === "" ? "." : path, destination: copy.destination };
  }
  const [inline] = copy.inline;
  if (inline !== undefined && copy.inline.length === 1 && found.length === 0) {
    return { entries: [inlineEntry(inline)], source: inline.name, destination: copy.destination };
  }
  if (!isFolder(copy.destination) && !(found.length === 1 && only?.isFolder === true)) {
    const what = found.length === 1 ? `${only?.path}, whose name looks like a pattern, needs` : `${found.length} files need`;
    throw new RoostError("context_invalid", `${what} a folder as destination; write ${copy.destination}/`);
  }
  const arranged = new Map<string, ContextEntry>();
  for (const one of found) for (const entry of await one.entries(one.isFolder ? "" : basename(one.path))) place(entry, arranged);
  for (const file of copy.inline) place(inlineEntry(file), arranged);
  return { entries: [...arranged.values()].sort(byPath), source: ".", destination: copy.destination };
}

function inlineEntry({ name, content }: LocalCopy["inline"][number]): ContextEntry {
  return { kind: "inline", path: name, mode: inlineMode, content };
}

/** Of two of one name the later one counts, as when they are copied one after another; a folder and something else cannot be both. */
function place(entry: ContextEntry, arranged: Map<string, ContextEntry>): void {
  const before = arranged.get(entry.path);
  if (before !== undefined && (before.kind === "folder") !== (entry.kind === "folder")) {
    throw new RoostError(
      "context_invalid",
      `two sources have ${JSON.stringify(entry.path)}, one of them as a folder; COPY them to different folders`,
    );
  }
  arranged.set(entry.path, entry);
}

/** Bytes of an archive's beginning that tell what it is: a tar header after decompression */
const headBytes = 64 * 1024;
const tarMagicAt = 257;

/** ADD unpacks archives, owners and all. Here that is a RUN, where it can be seen. */
async function refuseArchive(found: Found): Promise<void> {
  if (found.isFolder) return;
  const file = await open(found.real);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(headBytes), 0, headBytes, 0);
    if (!isArchive(buffer.subarray(0, bytesRead))) return;
  } finally {
    await file.close();
  }
  throw new RoostError("context_invalid", `ADD would unpack ${found.path}, which is not supported; COPY it and unpack it by RUN tar -xf`);
}

function isArchive(head: Buffer): boolean {
  if (head.subarray(0, 2).equals(Buffer.from([0x1f, 0x8b]))) {
    const content = decompressed(head);
    return content !== undefined && isTar(content);
  }
  const packed = ["425a68", "fd377a585a00", "28b52ffd"]; // bzip2, xz, zstd: what is in them cannot be seen here
  return isTar(head) || packed.some((magic) => head.toString("hex").startsWith(magic));
}

const isTar = (bytes: Buffer): boolean => bytes.toString("latin1", tarMagicAt, tarMagicAt + 5) === "ustar";

function decompressed(head: Buffer): Buffer | undefined {
  try {
    return gunzipSync(head, { finishFlush: 2, maxOutputLength: 64 * headBytes }); // Z_SYNC_FLUSH: the end may be missing
  } catch {
    return undefined; // not gzip after all, or too much in too little
  }
}
