import { opendir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { run } from "@roost/kit";

import { stepTimeoutMs } from "../contained-run.ts";
import { sourceDateEpoch } from "../source-date.ts";

/** Identity of the file system, the same in every build; guests tell themselves apart by other means. */
const fileSystemUuid = "6d1f3c1e-0000-4000-8000-526f6f737401";
const hashSeed = "6d1f3c1e-0000-4000-8000-526f6f737402";
/** Journal size in `MiB`: each sandbox's overlay sooner or later holds a copy of it. */
const journalMib = 16;

/**
 * Makes `image`, a sparse file with one ext4 file system (no partition table) that holds the contents of `folder`.
 * The same folder gives the same bytes.
 */
export async function makeExt4Image(
  folder: string,
  image: string,
  sizeMib: number,
  scratchFolder: string,
  signal: AbortSignal,
): Promise<void> {
  const draft = join(scratchFolder, "draft.ext4");
  const reproducible = ["-U", fileSystemUuid, "-E", `hash_seed=${hashSeed},root_owner=0:0,lazy_itable_init=0`];
  await run(
    [
      "env",
      `E2FSPROGS_FAKE_TIME=${sourceDateEpoch}`,
      "mke2fs",
      "-q",
      "-F",
      "-t",
      "ext4",
      "-L",
      "roost",
      "-m",
      "1",
      "-J",
      `size=${journalMib}`,
    ]
      .concat(reproducible)
      .concat(["-d", folder, draft, `${sizeMib}M`]) as [string, ...string[]],
    { timeoutMs: stepTimeoutMs, signal },
  );
  // mke2fs takes over when each file was last changed and read here; nothing but debugfs can set that.
  const commands = join(scratchFolder, "debugfs-commands");
  await writeFile(commands, await setTimesCommands(folder));
  await run(["env", `E2FSPROGS_FAKE_TIME=${sourceDateEpoch}`, "debugfs", "-w", "-f", commands, draft], {
    timeoutMs: stepTimeoutMs,
    signal,
  });
  // Refuses an image that any step above has damaged.
  await run(["e2fsck", "-f", "-n", draft], { timeoutMs: stepTimeoutMs, signal });
  // mke2fs has reserved space for the empty inode tables (with lazy_itable_init=1 it would not, but each guest would write them itself);
  // a sparse copy is a third smaller.
  await run(["cp", "--sparse=always", draft, image], { timeoutMs: stepTimeoutMs, signal });
}

async function setTimesCommands(folder: string): Promise<string> {
  const lines: string[] = [];
  const add = (path: string) => {
    // debugfs has no way to write a line break, or two quotes in a row, in a name.
    if (/[\n"]/.test(path)) return;
    lines.push(`sif "${path}" ctime @${sourceDateEpoch}`, `sif "${path}" atime @${sourceDateEpoch}`);
  };
  const walk = async (relative: string) => {
    const names: string[] = [];
    const folders = new Set<string>();
    for await (const entry of await opendir(join(folder, relative))) {
      names.push(entry.name);
      if (entry.isDirectory()) folders.add(entry.name);
    }
    for (const name of names.sort()) {
      add(`/${join(relative, name)}`);
      if (folders.has(name)) await walk(join(relative, name));
    }
  };
  await walk("");
  return `${lines.join("\n")}\n`;
}
