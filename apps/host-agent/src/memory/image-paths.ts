import { randomBytes } from "node:crypto";
import { basename, isAbsolute, join } from "node:path";

import { assert } from "@roost/kit";

import { fileNameSchema } from "./manifest.ts";

/**
 * Where things are in an image folder:
 *
 *     disk/<layer>.qcow2           layers of the disk; those that a manifest names are frozen
 *     memory/<base>.memory         base files, immutable
 *     generations/<n>.<r>/         generation n, revision r
 *     current                      which one is current
 *
 * Names that begin with a dot are staging or on their way out.
 */
export class ImagePaths {
  /** Absolute folder */
  readonly folder: string;
  readonly disk: string;
  readonly memory: string;
  readonly generations: string;
  readonly pointer: string;

  constructor(folder: string) {
    assert(isAbsolute(folder), "image folders are absolute");
    this.folder = folder;
    this.disk = join(folder, "disk");
    this.memory = join(folder, "memory");
    this.generations = join(folder, "generations");
    this.pointer = join(folder, "current");
  }

  layer(file: string): string {
    return join(this.disk, plainName(file));
  }

  base(file: string): string {
    return join(this.memory, plainName(file));
  }

  generation(number: number, revision: number): string {
    return join(this.generations, `${number}.${revision}`);
  }

  /** A name for something that will be renamed when it is complete, beside where it will be. */
  staging(folder: string): string {
    return join(folder, `${stagingPrefix}${randomName()}`);
  }

  /** A name for something that is being removed. */
  dead(path: string): string {
    return join(path, "..", `${deadPrefix}${basename(path)}-${randomName()}`);
  }
}

export const stagingPrefix = ".new-";
export const deadPrefix = ".dead-";
export const layerSuffix = ".qcow2";
export const baseSuffix = ".memory";
/** What a layer is called while it is made or merged: see `disk/` */
const unfinishedSuffixes = [".new", ".merging"];

/** Whether this is the name of something that was being made or removed: nobody's after a crash. */
export function isUnfinished(name: string): boolean {
  return name.startsWith(stagingPrefix) || name.startsWith(deadPrefix) || unfinishedSuffixes.some((suffix) => name.endsWith(suffix));
}

export interface GenerationName {
  readonly number: number;
  readonly revision: number;
}

/** `3.1`; undefined for anything else. */
export function parseGenerationName(name: string): GenerationName | undefined {
  const match = /^([1-9]\d{0,11})\.([1-9]\d{0,11})$/.exec(name);
  return match === null ? undefined : { number: Number(match[1]), revision: Number(match[2]) };
}

export function randomName(): string {
  return randomBytes(8).toString("hex");
}

function plainName(file: string): string {
  assert(fileNameSchema.safeParse(file).success, "files of an image are plain names");
  return file;
}
