import { closeSync, openSync, readSync, statSync, type BigIntStats } from "node:fs";

import { MiB } from "@roost/kit";

import { pageBytes } from "../vmm/driver.ts";

/** Longest list of mappings that is read in `bytes`; a QEMU has 20 KiB, and 65,530 mappings are the kernel's limit */
const mapsBytesMax = 16 * MiB;
/** Mappings of the right size that are looked at; one is usual */
const candidatesMax = 64;

export interface Mapping {
  /** Addresses in the process; end exclusive */
  readonly start: number;
  readonly end: number;
}

interface Area extends Mapping {
  /** Where the mapping begins in its file in `bytes` */
  readonly offset: number;
  readonly permissions: string;
  /** Device and inode as the kernel prints them */
  readonly file: string;
  /** As in `map_files`: the first area of the mapping */
  readonly name: string;
}

/**
 * The one mapping of a whole file, private and writable, in a process. By inode, because the VMM sees the file under another path in its mount
 * namespace; the inode is asked of the mapping itself, because on some file systems /proc/PID/maps shows another device than `stat`.
 */
export function findMapping(processFolder: string, file: BigIntStats): Mapping {
  const size = Number(file.size);
  if (!file.isFile() || size === 0 || size % pageBytes !== 0) throw new Error("the base file is no file of whole pages");
  const candidates = joinAreas(readMaps(`${processFolder}/maps`)).filter((area) => area.offset === 0 && area.end - area.start === size);
  if (candidates.length > candidatesMax) throw new Error("the VMM has too many mappings of its memory's size");
  const found = candidates.filter((area) => {
    const status = statSync(`${processFolder}/map_files/${area.name}`, { bigint: true, throwIfNoEntry: false });
    return status?.ino === file.ino && status.dev === file.dev;
  });
  const [mapping] = found;
  if (mapping === undefined) throw new Error("the VMM does not map its base file as a whole");
  if (found.length > 1) throw new Error("the VMM maps its base file more than once");
  if (mapping.permissions !== "rw-p") throw new Error(`the VMM maps its base file ${mapping.permissions}, not private and writable`);
  return { start: mapping.start, end: mapping.end };
}

/** Areas of one file that continue each other, in addresses and in the file, are one mapping that the kernel keeps in pieces. */
function joinAreas(areas: readonly Area[]): Area[] {
  const joined: Area[] = [];
  for (const area of areas) {
    const last = joined.at(-1);
    const continues =
      last !== undefined &&
      last.file === area.file &&
      last.permissions === area.permissions &&
      last.end === area.start &&
      last.offset + (last.end - last.start) === area.offset;
    if (continues) joined[joined.length - 1] = { ...last, end: area.end };
    else joined.push(area);
  }
  return joined;
}

/** `start-end permissions offset device inode path`, numbers in hexadecimal but for the inode. Only areas of files. */
export function parseMaps(text: string): Area[] {
  const areas: Area[] = [];
  for (const line of text.split("\n")) {
    const match = /^([0-9a-f]{1,13})-([0-9a-f]{1,13}) ([r-][w-][x-][ps]) ([0-9a-f]{1,13}) ([0-9a-f]+:[0-9a-f]+ [1-9]\d*)(?: |$)/.exec(line);
    if (match === null) continue; // no file behind it, or an address above 2^52
    const [, start = "", end = "", permissions = "", offset = "", file = ""] = match;
    areas.push({
      start: Number.parseInt(start, 16),
      end: Number.parseInt(end, 16),
      offset: Number.parseInt(offset, 16),
      permissions,
      file,
      name: `${start}-${end}`.replaceAll(/\b0+(?=[0-9a-f])/g, ""),
    });
  }
  return areas;
}

function readMaps(path: string): Area[] {
  const file = openSync(path, "r");
  try {
    const chunks: Buffer[] = [];
    for (let size = 0; ;) {
      const chunk = Buffer.alloc(64 * 1024);
      const count = readSync(file, chunk);
      if (count === 0) break;
      size += count;
      if (size > mapsBytesMax) throw new Error("the VMM has too many mappings");
      chunks.push(chunk.subarray(0, count));
    }
    return parseMaps(Buffer.concat(chunks).toString("latin1"));
  } finally {
    closeSync(file);
  }
}
