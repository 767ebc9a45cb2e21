import { randomBytes } from "node:crypto";

import type { DiskPath } from "./disk-path.ts";

/**
 * Names of files that are about to take the place of another by rename. Watchers must know them: to their clients an
 * upload is one write of the file, not the life of a neighbour with an odd name.
 *
 * The prefix holds a random part of this run of the agent, so no file of the guest has such a name by chance.
 */
const prefix = `.roost-${randomBytes(6).toString("hex")}-`;
const replacingSuffix = "-replace";
const creatingSuffix = "-create";

let count = 0;

/** A name not used before. Short, so that it fits wherever a name fits. */
export function newStagingName(replacing: boolean): string {
  count += 1;
  return prefix + count.toString(36) + (replacing ? replacingSuffix : creatingSuffix);
}

export type StagingPurpose = "replace" | "create";

/** Nameless files of late whose names are remembered: their events may come after they are done. */
const namelessMax = 4096;
const nameless = new Set<string>();

/**
 * Remembers a file without a name (O_TMPFILE). The kernel tells watchers of its folder about writes to it nevertheless,
 * under the name "#<inode>".
 */
export function rememberNameless(inode: number): void {
  nameless.delete(`#${inode}`);
  nameless.add(`#${inode}`);
  for (const oldest of nameless) {
    if (nameless.size <= namelessMax) break;
    nameless.delete(oldest);
  }
}

/** Whether a name is that of a file of ours which has none. */
export function isNameless(name: DiskPath): boolean {
  return typeof name === "string" && nameless.has(name);
}

/** What a staging name is for; undefined for every other name. */
export function stagingPurpose(name: DiskPath): StagingPurpose | undefined {
  if (typeof name !== "string" || !name.startsWith(prefix)) return undefined;
  return name.endsWith(replacingSuffix) ? "replace" : "create";
}
