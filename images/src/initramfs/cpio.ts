import { assert } from "@roost/kit";

/** One entry of an archive; folders are named before what lies in them. */
export interface CpioEntry {
  /** Relative, without a leading slash. */
  readonly name: string;
  /** File type and permissions, as in stat(2)'s `st_mode`. */
  readonly mode: number;
  readonly data?: Uint8Array;
  /** Major and minor number of a device node. */
  readonly device?: readonly [number, number];
}

export const fileMode = (permissions: number) => 0o100000 | permissions;
export const folderMode = (permissions: number) => 0o040000 | permissions;
/** A symbolic link; its data is the target. */
export const linkMode = 0o120777;
export const characterDeviceMode = (permissions: number) => 0o020000 | permissions;

/**
 * A cpio archive in the "newc" format, which the kernel unpacks as its initramfs
 * (Documentation/driver-api/early-userspace/buffer-format.rst). The same entries give the same bytes.
 *
 * @param mtime of every entry, in `s` since 1970
 */
export function cpioArchive(entries: readonly CpioEntry[], mtime: number): Buffer {
  const chunks: Buffer[] = [];
  entries.forEach((entry, index) => append(chunks, entry, index + 1, mtime));
  append(chunks, { name: "TRAILER!!!", mode: 0 }, 0, 0);
  return Buffer.concat(chunks);
}

function append(chunks: Buffer[], entry: CpioEntry, inode: number, mtime: number): void {
  assert(!entry.name.startsWith("/") && entry.name !== "", "archive names are relative");
  const data = entry.data ?? new Uint8Array();
  const name = Buffer.from(`${entry.name}\0`);
  const isFolder = (entry.mode & 0o170000) === 0o040000;
  const [major, minor] = entry.device ?? [0, 0];
  const fields = [inode, entry.mode, 0, 0, isFolder ? 2 : 1, mtime, data.length, 0, 0, major, minor, name.length, 0];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`, "latin1");
  chunks.push(header, name, padding(header.length + name.length), Buffer.from(data), padding(data.length));
}

/** Names and contents end on multiples of four bytes. */
function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4);
}
