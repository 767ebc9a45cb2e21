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

/** What a staging name is for; undefined for every other name. */
export function stagingPurpose(name: DiskPath): StagingPurpose | undefined {
  if (typeof name !== "string" || !name.startsWith(prefix)) return undefined;
  return name.endsWith(replacingSuffix) ? "replace" : "create";
}
