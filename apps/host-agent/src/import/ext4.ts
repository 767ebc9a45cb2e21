import { lstat, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { CommandError, run } from "@roost/kit";

import { contained, containedEnvironment, type Containment } from "./contained.ts";
import type { ImageTree } from "./image-tree.ts";
import { attributesMax, diskMarginMib, diskMibDefault, unpackTimeoutMs } from "./limits.ts";
import { startPiped } from "./piped.ts";
import { unusable } from "./unusable.ts";
import { ReaderGone, sizeOfTree, writeTree, type LateAttribute } from "./write-tar.ts";

/**
 * A tree becomes a disk without ever being unpacked: it goes as one tar stream into `mke2fs -d -` (e2fsprogs 1.47.1 and newer, with libarchive), which runs without privileges and
 * network. That keeps owners, modes, times in seconds, devices, long names, links, capabilities and holes right; other extended attributes it leaves out, so debugfs adds those.
 *
 * The alternative, GNU tar in namespaces of its own and `mke2fs -d <folder>`, needs root for owners and devices, makes hostile names and setuid files exist on the host for a while, and
 * a debugfs run over all files for their times. Measured with 12,000 files and 870 MiB on two busy cores: this takes 7 to 9 s, that 16 s.
 *
 * The same tree gives the same bytes: times, UUID and hash seed are fixed.
 */
export interface Ext4Options {
  /** To be made: a sparse file, root's, in a folder that only root writes */
  readonly image: string;
  /** Of the disk in `MiB`; 0: as the base template's, or what the image needs and a margin */
  readonly askedMib: number;
  /** Work folder, owned by `uid` */
  readonly folder: string;
  readonly uid: number;
  /** All times that no layer says, in `s` since 1970 */
  readonly timeSec: number;
  readonly signal: AbortSignal;
}

/** Another one than the base templates': a guest never has both, but people who look at files may. */
const fileSystemUuid = "6d1f3c1e-0000-4000-8000-526f6f737403";
const hashSeed = "6d1f3c1e-0000-4000-8000-526f6f737404";
/** Journal size in `MiB`: each sandbox's layer sooner or later holds a copy of it */
const journalMib = 16;
/** ext4's usual proportion, one inode for this many `bytes` of disk */
const bytesPerInode = 16_384;
/** Largest disk that is made in `MiB`; a file may be that large on ext4 with room to spare */
const diskMibMax = 1_048_576;

/** What the disk of a tree must have in `MiB`: the size that was asked for, if all fits. */
function diskMibFor(tree: ImageTree, askedMib: number): number {
  const { bytes, inodes } = sizeOfTree(tree);
  // An eighth for ext4's own tables and the blocks it keeps for root
  const contentMib = Math.ceil(((bytes + inodes * 256) * 1.125) / 2 ** 20) + journalMib + smallMib;
  return askedMib > 0 ? Math.max(askedMib, contentMib) : Math.max(diskMibDefault, contentMib + diskMarginMib);
}

/** Of any disk in `MiB`, beside journal and contents */
const smallMib = 32;

/** Makes a disk of a tree; returns its size in `MiB`. */
export async function writeExt4(tree: ImageTree, options: Ext4Options): Promise<number> {
  const { folder, uid, signal, timeSec } = options;
  const sizeMib = diskMibFor(tree, options.askedMib);
  if (sizeMib > diskMibMax) throw unusable(`the image needs a disk of ${sizeMib} MiB; make it smaller`);
  const where: Containment = { folder, uid, hasNetwork: false };
  const env = { E2FSPROGS_FAKE_TIME: String(timeSec) };
  const inodes = Math.max(Math.floor((sizeMib * 2 ** 20) / bytesPerInode), 2 * sizeOfTree(tree).inodes);
  const shape = ["-b", "4096", "-I", "256", "-N", String(inodes), "-L", "roost", "-m", "1", "-J", `size=${journalMib}`];
  const same = ["-U", fileSystemUuid, "-E", `hash_seed=${hashSeed},root_owner=0:0,lazy_itable_init=0`];
  const command = ["mke2fs", "-q", "-F", "-t", "ext4", ...shape, ...same, "-d", "-", draftName, `${sizeMib}M`];
  const program = startPiped(contained(command, where), { timeoutMs: unpackTimeoutMs, signal, env });
  program.stdout.resume();
  const written = await writeTree(tree, program.stdin, { timeSec, signal }).catch(async (error: unknown) => {
    program.stdin.destroy();
    await program.ended; // when it has failed its own message says why
    throw error instanceof ReaderGone ? new Error("mke2fs ended before it had read everything") : error;
  });
  program.stdin.end();
  await program.ended;
  const runContained = (words: readonly string[]) =>
    run(contained(words, where), { timeoutMs: unpackTimeoutMs, signal, env: containedEnvironment(env) });
  await setAttributes(written.attributes, folder, runContained);
  // Refuses what any step above has damaged
  await run(contained(["e2fsck", "-f", "-n", draftName], where), { timeoutMs: unpackTimeoutMs, signal, env: containedEnvironment() });
  if (!(await lstat(join(folder, draftName))).isFile()) throw new Error("mke2fs has made something else than a file");
  // Reserved and never written are the tables of inodes; a sparse copy, which is root's, has them as holes
  await run(["cp", "--sparse=always", join(folder, draftName), options.image], { timeoutMs: unpackTimeoutMs, signal });
  return sizeMib;
}

const draftName = "draft.ext4";

/** By debugfs, which says what failed in its messages only. */
async function setAttributes(
  attributes: readonly LateAttribute[],
  folder: string,
  runContained: (words: readonly string[]) => Promise<string>,
): Promise<void> {
  if (attributes.length === 0) return;
  if (attributes.length > attributesMax) throw unusable(`the image has more than ${attributesMax} files with extended attributes`);
  const values = new Map<string, string>();
  const lines: string[] = [];
  for (const { path, name, value } of attributes) {
    if (/[\n"]/.test(path))
      throw unusable("a file of the image whose name has a line break or quotation mark has extended attributes; rename it");
    const key = value.toString("latin1");
    let valueName = values.get(key);
    if (valueName === undefined) {
      valueName = `value-${values.size}`;
      values.set(key, valueName);
      await writeFile(join(folder, valueName), value, { mode: 0o644 });
    }
    lines.push(`ea_set -f ${valueName} "${path}" ${name}`);
  }
  await writeFile(join(folder, "attributes"), Buffer.from(`${lines.join("\n")}\n`, "latin1"), { mode: 0o644 });
  // Its messages go to standard error, the first of them its version; how it ends says nothing
  const script = [
    `debugfs -w -f attributes ${draftName} >/dev/null 2>messages`,
    "grep -v '^debugfs [0-9]' messages >failures || exit 0",
    "tail -n 5 failures >&2",
    `exit ${attributesFailed}`,
  ].join("; ");
  await runContained(["sh", "-c", script]).catch((error: unknown) => {
    if (!(error instanceof CommandError) || error.exitCode !== attributesFailed) throw error;
    throw unusable("the extended attributes of a file in the image do not fit ext4", error.stderr);
  });
}

const attributesFailed = 9;
