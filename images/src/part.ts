import { z } from "zod";

import type { Digest } from "./digest.ts";
import type { OnProgress } from "./progress.ts";

/** What a recipe gets to work with. */
export interface BuildContext {
  /** Empty folder in the cache's file system; what the recipe leaves in it is what is published. */
  readonly outputFolder: string;
  /** Empty folder for everything else; removed afterwards, whatever happened. */
  readonly scratchFolder: string;
  readonly signal: AbortSignal;
  readonly onProgress: (message: string, fraction?: number) => void;
  /** Ask the package repositories what is newest now, instead of taking what apt already knows. */
  readonly refresh: boolean;
}

/**
 * One recipe: a name, everything that decides its result, and how to make it.
 *
 * A part is published as the folder `<name>-<digest>` of its content. Beside it a memo says which inputs led to it, so that
 * the same inputs build nothing; two inputs that lead to the same content share it.
 */
export interface Part {
  readonly name: string;
  /** Everything that decides the content, cheap to find out: recipe files, package lists, versions, digests of other parts. */
  readonly inputs: () => Promise<Readonly<Record<string, unknown>>>;
  /** Free disk space the build needs at its peak in `bytes`. */
  readonly spaceBytes: number;
  /** Returns the version where the part has one. */
  readonly build: (context: BuildContext) => Promise<PartResult>;
}

export interface PartResult {
  /** The file in `outputFolder` whose digest names the part. */
  readonly main: string;
  readonly version?: string;
  /** The main file is sparse and large (a disk): its digest is that of `sparse-digest.ts`. */
  readonly isSparse?: boolean;
}

export const builtPartSchema = z.object({
  /** Folder of the part, relative to the cache */
  folder: z.string().regex(/^[a-z0-9-]+$/),
  /** Path of the main file, relative to the cache */
  path: z.string(),
  digest: z.string().regex(/^sha256:[0-9a-f]{64}$/),
  version: z.string().optional(),
});

export type BuiltPart = z.infer<typeof builtPartSchema>;

export function partFolderName(name: string, digest: Digest): string {
  return `${name}-${digest.slice("sha256:".length, "sha256:".length + 16)}`;
}

export type { OnProgress };
