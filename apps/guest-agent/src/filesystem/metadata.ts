import type { DiskPath } from "./disk-path.ts";
import { systemError } from "./file-errors.ts";
import { libc } from "./libc.ts";

/**
 * Metadata of files: extended attributes `user.e2b.<key>`, where the ecosystem's SDKs look for them.
 * They live and die with the inode, move with renames, and cost two calls to read where there are none.
 */
export type Metadata = Readonly<Record<string, string>>;

export const metadataPrefix = "user.e2b.";
/** XATTR_NAME_MAX (255) less the prefix, in `bytes` */
export const metadataKeyBytesMax = 255 - metadataPrefix.length;
/** All keys and values of one file together, in `bytes`: what ext4 keeps in one block beside the inode */
export const metadataBytesMax = 4096;

/** Names of a file's attributes in `bytes` (XATTR_LIST_MAX); the kernel keeps no longer list. */
const namesBytesMax = 64 * 1024;
/** A value longer than this in `bytes` was not written by us and is not shown. */
const valueBytesMax = metadataBytesMax;

const names = Buffer.alloc(namesBytesMax);
const value = Buffer.alloc(valueBytesMax);

/** Metadata of a file or folder; of a symbolic link none, as it can carry none. Empty where the disk knows no attributes. */
export function readMetadata(path: DiskPath): Metadata {
  const length = libc().listXattrs(path, names);
  if (length <= 0) return {};
  const metadata: [string, string][] = [];
  for (const name of names.toString("utf8", 0, length).split("\0")) {
    if (!name.startsWith(metadataPrefix) || name.length === metadataPrefix.length) continue;
    const valueLength = libc().getXattr(path, name, value);
    if (valueLength >= 0) metadata.push([name.slice(metadataPrefix.length), value.toString("utf8", 0, valueLength)]);
  }
  return Object.fromEntries(metadata);
}

/** Sets metadata on the file behind an open descriptor. `ENOTSUP` where the disk knows no attributes. */
export function writeMetadata(descriptor: number, metadata: Metadata): void {
  for (const [key, text] of Object.entries(metadata)) setAttribute(descriptor, metadataPrefix + key, Buffer.from(text));
}

/**
 * Copies the `user.` attributes that are not metadata from a file to the one that replaces it: to whoever set them,
 * the file at this path is still the same.
 */
export function copyForeignAttributes(from: string, descriptor: number): void {
  const length = libc().listXattrs(from, names);
  if (length <= 0) return;
  const large = Buffer.alloc(namesBytesMax); // XATTR_SIZE_MAX, the largest value there is
  for (const name of names.toString("utf8", 0, length).split("\0")) {
    if (!name.startsWith("user.") || name.startsWith(metadataPrefix)) continue;
    const valueLength = libc().getXattr(from, name, large);
    if (valueLength >= 0) setAttribute(descriptor, name, large.subarray(0, valueLength));
  }
}

function setAttribute(descriptor: number, name: string, content: Buffer): void {
  const path = `/proc/self/fd/${descriptor}`;
  const result = libc().setXattr(path, name, content);
  if (result < 0) throw systemError("setxattr", result, path);
}
