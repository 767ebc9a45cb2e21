import { readFile } from "node:fs/promises";

import { isWithin } from "./disk-path.ts";

/**
 * Mounts whose other end is not the kernel: what changes there on another machine raises no event here, and a call may
 * wait for a daemon that waits for us.
 */
const networkTypes = /^(?:nfs4?|cifs|smb3?|smbfs|fuse|fuseblk|fuse\..+|9p|virtiofs|ceph|afs|glusterfs|lustre)$/;

export interface Mount {
  readonly folder: string;
  readonly isNetwork: boolean;
}

/** Mounts as /proc/self/mountinfo lists them; a later one hides an earlier one of the same folder (proc_pid_mountinfo(5)). */
export function parseMounts(text: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of text.split("\n")) {
    const [left, right] = line.split(" - ", 2);
    const folder = left?.split(" ")[4];
    const type = right?.split(" ")[0];
    if (folder === undefined || type === undefined) continue;
    mounts.push({ folder: folder.replaceAll(/\\([0-7]{3})/g, unescapeOctal), isNetwork: networkTypes.test(type) });
  }
  return mounts;
}

function unescapeOctal(_match: string, digits: string): string {
  return String.fromCodePoint(Number.parseInt(digits, 8));
}

export async function readMounts(): Promise<Mount[]> {
  return parseMounts(await readFile("/proc/self/mountinfo", "utf8"));
}

/** Whether an absolute path without symbolic links lies on a network mount. Asks the table, never the mount. */
export function isOnNetworkMount(path: string, mounts: readonly Mount[]): boolean {
  let best: Mount | undefined;
  for (const mount of mounts) {
    if (isWithin(path, mount.folder) && mount.folder.length >= (best?.folder.length ?? 0)) best = mount;
  }
  return best?.isNetwork ?? false;
}
