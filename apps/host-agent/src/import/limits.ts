import { GiB, hour, KiB, MiB, minute, second } from "@roost/kit";

/** Limits of what is imported. Images are strangers' data: each figure bounds what one of them may cost. */

/** Entries of all layers together; the largest images in wide use have some 400,000. Each costs about 0.5 KiB of this process's memory while the image is made. */
export const entriesMax = 1_000_000;
/** Layers of an image; Docker makes at most 127 */
export const layersMax = 512;
/** A path in a layer, or a link's target, in `bytes`: PATH_MAX less its terminator, which is what ext4 takes of a symbolic link */
export const pathBytesMax = 4_095;
/** One name of a path in `bytes`: ext4's limit */
export const nameBytesMax = 255;
/** Folders above a file; far more than anybody has, and few enough to walk by recursion */
export const depthMax = 1_000;
/** Extended header of one entry in `bytes`: names, times and extended attributes */
export const headerBytesMax = 1 * MiB;
/** Extended attributes of one file in `bytes`, names and values: what fits beside its inode and one block of 4 KiB */
export const attributeBytesMax = 3 * KiB;
/** Files with extended attributes other than capabilities: each is a command to debugfs */
export const attributesMax = 50_000;
/** Pieces of one sparse file */
export const sparsePiecesMax = 100_000;
/** Symbolic links followed on the way to one file, as the kernel's limit */
export const linksFollowedMax = 40;
/** A manifest, index or configuration in `bytes`; registries refuse larger ones, too */
export const documentBytesMax = 4 * MiB;

/** One part of an uploaded archive in `bytes` */
export const archivePartBytesMax = 1 * MiB;
/** Uploaded archives at once, together with those that wait to be imported */
export const archivesMax = 8;
/** An archive that nobody touched for this long in `ms` is removed */
export const archiveIdleMs = hour;

/** Imports at once: each keeps a CPU and the disk busy */
export const importsAtOnceMax = 2;
/** Imports that may wait for their turn */
export const importsWaitingMax = 32;

/** Asking a registry what it has, in `ms` */
export const resolveTimeoutMs = minute;
/** Fetching all layers in `ms`: some GiB over a slow line */
export const fetchTimeoutMs = 40 * minute;
/** Unpacking one layer, or writing the disk, in `ms` */
export const unpackTimeoutMs = 20 * minute;
/** Installing Debian packages in `ms` */
export const debianTimeoutMs = 30 * minute;
/** Between two messages about progress in `ms` */
export const progressIntervalMs = 1 * second;

/** Size of a disk that nobody asked a size for, in `MiB`: as the base template's */
export const diskMibDefault = (10 * GiB) / MiB;
/** What a disk has beyond its image's content in `MiB`, at least */
export const diskMarginMib = (1 * GiB) / MiB;

/** An image that nothing was made of for this long in `ms`, and nothing depends on, is removed */
export const unusedImageMs = 7 * 24 * hour;
/** An image younger than this in `ms` is never removed for want of room: who asked for it has not come to use it yet */
export const freshImageMs = hour;
