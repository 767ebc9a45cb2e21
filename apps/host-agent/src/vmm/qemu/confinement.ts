import { writeFile } from "node:fs/promises";

import { assert } from "@roost/kit";

/**
 * How a program is started that eats what a guest has made, so that it can do as little as possible.
 *
 *     nsenter (a network namespace)
 *       → unshare (own mount, IPC and host name namespaces)
 *         → a script, as root: joins cgroups, mounts the few files the program needs on a skeleton of a root file system,
 *           makes that the only one it can see, sets limits
 *           → setpriv: a uid and gid of its own, no groups, no capabilities, nothing can give it any
 *             → the program
 *
 * Each arrow is an exec, so all of it is one process. Namespaces and mounts vanish with it. Every process that is started costs a millisecond
 * before a guest can go on, so all mounts are made by one `mount` that reads them as a table.
 */

const busybox = "/usr/bin/busybox";
/** Open files: disks, sockets and event descriptors of a VM need some dozens. */
const openFilesMax = 1_024;
/** Threads of the program's uid: vCPUs, and up to 64 of QEMU's disk workers. */
const processesMax = 256;
/** A host that runs out of memory ends these before anything of its own. */
const oomScoreAdjustment = 300;

export interface Confinement {
  /** Network namespace to enter; null: the host agent's own; `empty`: a new one with nothing in it */
  readonly network: { readonly path: string } | "empty" | null;
  readonly uid: number;
  readonly gid: number;
  /** `cgroup.procs` files to join */
  readonly cgroupProcs: readonly string[];
  /** See `root-skeleton.ts` */
  readonly rootSkeleton: string;
  /** Where the table of mounts is written; it must be a file, and is not needed once the program runs */
  readonly mountTable: string;
  /** What the program sees beside /usr */
  readonly mounts: readonly ConfinedMount[];
  /** Files that it gets open for reading, by descriptor (3 to 9), without seeing them */
  readonly descriptors: readonly { readonly descriptor: number; readonly path: string }[];
  /** Largest file it may write in `MiB` */
  readonly fileSizeMibMax: number;
  /** Ends when the process that started it does */
  readonly endsWithParent: boolean;
  /** The program and its arguments, with paths as it sees them */
  readonly command: readonly string[];
}

export interface ConfinedMount {
  /** Absolute path on the host */
  readonly source: string;
  /** Absolute path inside; the skeleton has it */
  readonly target: string;
  readonly writable: boolean;
}

/** Prepares a confinement and returns the command that becomes the confined program. */
export async function confine(plan: Confinement): Promise<[string, ...string[]]> {
  for (const { descriptor } of plan.descriptors) assert(descriptor >= 3 && descriptor <= 9, "the shell takes descriptors of one digit");
  await writeFile(plan.mountTable, mountTable(plan), { mode: 0o600 });
  const shell = [busybox, "sh", "-c", script(plan), "roost-confine"];
  const namespaces = ["--mount", "--ipc", "--uts", ...(plan.network === "empty" ? ["--net"] : [])];
  const unshare: [string, ...string[]] = ["/usr/bin/unshare", ...namespaces, "--propagation", "private", "--", ...shell];
  if (plan.network === null || plan.network === "empty") return unshare;
  return [busybox, "nsenter", `--net=${plan.network.path}`, ...unshare];
}

function script(plan: Confinement): string {
  return [
    "set -eu",
    "umask 022",
    `echo ${oomScoreAdjustment} >/proc/self/oom_score_adj`,
    ...plan.descriptors.map(({ descriptor, path }) => `exec ${descriptor}<${quote(path)}`),
    `/usr/bin/mount --all --no-mtab --fstab ${quote(plan.mountTable)}`,
    ...plan.cgroupProcs.map((path) => `echo $$ >${quote(path)}`), // late: see Cgroups.anticipateJoin
    `cd ${quote(plan.rootSkeleton)}`,
    "pivot_root . old",
    "cd /",
    "umount -l old",
    `ulimit -c 0 -n ${openFilesMax} -u ${processesMax} -l 64 -f ${plan.fileSizeMibMax * 2_048}`,
    `exec ${[...setpriv(plan), ...plan.command].map(quote).join(" ")}`,
  ].join("\n");
}

/** In the format of fstab(5). */
export function mountTable(plan: Pick<Confinement, "rootSkeleton" | "mounts">): string {
  const root = plan.rootSkeleton;
  const lines = [
    // Its device nodes are why it is not `nodev`: those of other mounts are not to be opened
    mountLine(root, root, "ro,nosuid,noexec"),
    mountLine("/usr", `${root}/usr`, "ro,nosuid,nodev"),
    ...plan.mounts.map(({ source, target, writable }) =>
      mountLine(source, `${root}${target}`, `${writable ? "rw" : "ro"},nosuid,nodev,noexec`),
    ),
  ];
  return lines.map((line) => `${line}\n`).join("");
}

function setpriv(plan: Confinement): string[] {
  return [
    "/usr/bin/setpriv",
    `--reuid=${plan.uid}`,
    `--regid=${plan.gid}`,
    "--clear-groups",
    "--inh-caps=-all",
    "--ambient-caps=-all",
    "--bounding-set=-all",
    "--no-new-privs",
    ...(plan.endsWithParent ? ["--pdeathsig=KILL"] : []),
  ];
}

/** What would end a field is written in octal. */
function mountLine(source: string, target: string, options: string): string {
  const field = (path: string) => {
    assert(path.startsWith("/") && !path.includes("\n"), "what is mounted has an absolute path of one line");
    return path.replaceAll(/[\s\\#]/g, (character) => `\\${character.charCodeAt(0).toString(8).padStart(3, "0")}`);
  };
  return `${field(source)} ${field(target)} none bind,${options} 0 0`;
}

function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
