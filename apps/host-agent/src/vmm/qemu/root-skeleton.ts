import { randomBytes } from "node:crypto";
import { copyFile, mkdir, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";

import { run } from "@roost/kit";

import { insidePaths } from "./layout.ts";

/**
 * The root file system of VMMs: folders and files to mount things on, and what no mount brings. Made once and shared by all VMs of a host agent:
 * each sees it read-only, with its own files mounted over it, in a mount namespace of its own.
 */

/** Changes with what is in it. */
const version = 1;
/** Device nodes that anybody in a VMM's namespace may open; the host's own are often kept to groups. */
const devices = [
  { path: "dev/null", major: 1, minor: 3 },
  { path: "dev/net/tun", major: 10, minor: 200 },
] as const;
/** Only of use, and only there, where guests run on it. */
const kvmDevice = { path: "dev/kvm", major: 10, minor: 232 } as const;

export interface SkeletonOptions {
  readonly kvm?: boolean;
  /** Files to mount disks on one by one, named by their numbers; a VMM gets its folder as a whole instead */
  readonly diskFiles?: number;
}

/** The folder, made in `parent` unless it is there. */
export async function ensureRootSkeleton(parent: string, options: SkeletonOptions): Promise<string> {
  const { kvm = false, diskFiles = 0 } = options;
  // Nobody but root gets through the outer folder to the device nodes
  const outer = join(parent, `vmm-root-${version}${kvm ? "-kvm" : ""}${diskFiles > 0 ? `-${diskFiles}` : ""}`);
  const isThere = await stat(outer).then(
    () => true,
    () => false,
  );
  if (!isThere) await make(outer, { kvm, diskFiles });
  return join(outer, "root");
}

async function make(outer: string, options: Required<SkeletonOptions>): Promise<void> {
  const staging = `${outer}.${randomBytes(4).toString("hex")}.tmp`;
  const root = join(staging, "root");
  try {
    await mkdir(staging, { recursive: true, mode: 0o700 });
    for (const folder of ["old", "usr", "etc", "dev/net", insidePaths.run, insidePaths.disk]) {
      await mkdir(join(root, folder), { recursive: true, mode: 0o755 });
    }
    for (const file of [insidePaths.memory, insidePaths.kernel, insidePaths.initramfs]) await writeFile(join(root, file), "");
    for (let file = 0; file < options.diskFiles; file += 1) await writeFile(join(root, insidePaths.disk, String(file)), "");
    for (const name of ["bin", "sbin", "lib", "lib64"]) await symlink(`usr/${name}`, join(root, name));
    await copyFile("/etc/ld.so.cache", join(root, "etc/ld.so.cache")); // else the loader searches for each of a hundred libraries
    for (const { path, major, minor } of options.kvm ? [...devices, kvmDevice] : devices) {
      await run(["/usr/bin/busybox", "mknod", "-m", "0666", join(root, path), "c", String(major), String(minor)]);
    }
    await mkdir(dirname(outer), { recursive: true });
    await rename(staging, outer).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error; // two starts at once make the same
    });
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
}
