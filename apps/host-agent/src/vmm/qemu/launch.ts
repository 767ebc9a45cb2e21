import { dirname } from "node:path";

import { consoleFileBytesMax, consoleFileName, consoleOldFileName } from "../console.ts";
import type { VmLayout } from "./layout.ts";

/**
 * How a VMM is started so that it can do as little as possible and still outlives us.
 *
 *     nsenter (network namespace of the slot)
 *       → unshare (own mount, IPC and host name namespaces)
 *         → launch script, as root: joins the cgroup, builds a root file system of the few files the VMM needs,
 *           makes it the only one it can see, sets limits
 *           → setpriv: the VM's uid and gid, no groups, no capabilities, nothing can give it any
 *             → supervisor script: starts QEMU, keeps the newest of what it prints, waits for it, writes how it ended
 *               → QEMU, which puts a seccomp filter on itself
 *
 * Each arrow but the last is an exec, so all of it is one process and its child. Both scripts run in busybox, whose shell has `mount`
 * and the like built in: 20 ms for all of it. Namespaces, mounts and processes vanish with the last process.
 */

const busybox = "/usr/bin/busybox";
/** Open files: disks, sockets and event descriptors of a VM need some dozens. */
const openFilesMax = 1_024;
/** Threads of the VM's uid: vCPUs, and up to 64 of QEMU's disk workers. */
const processesMax = 256;
/** A host that runs out of memory ends VMMs before anything of its own. */
const oomScoreAdjustment = 300;

export interface LaunchPlan {
  readonly layout: VmLayout;
  readonly namespacePath: string | null;
  readonly uid: number;
  readonly gid: number;
  /** `cgroup.procs` files to join */
  readonly cgroupProcs: readonly string[];
  /** Files the VMM sees at their own paths and cannot write */
  readonly readOnlyFiles: readonly string[];
  /** Files it may write, beside its `run` folder */
  readonly writableFiles: readonly string[];
  readonly devices: readonly LaunchDevice[];
  /** Largest file it may write in `MiB` */
  readonly fileSizeMibMax: number;
  /** The VMM and its arguments */
  readonly command: readonly string[];
}

export interface LaunchDevice {
  readonly name: string;
  readonly major: number;
  readonly minor: number;
}

/** The command that becomes the supervisor of a VM. */
export function launchCommand(plan: LaunchPlan): [string, ...string[]] {
  const shell = [busybox, "sh", "-c", launchScript(plan), "roost-vm-launch", plan.layout.folder];
  const unshare: [string, ...string[]] = ["/usr/bin/unshare", "--mount", "--ipc", "--uts", "--propagation", "private", "--", ...shell];
  return plan.namespacePath === null ? unshare : ["/usr/bin/nsenter", `--net=${plan.namespacePath}`, "--", ...unshare];
}

function launchScript(plan: LaunchPlan): string {
  const { layout } = plan;
  const privileges = [
    `--reuid=${plan.uid}`,
    `--regid=${plan.gid}`,
    "--clear-groups",
    "--inh-caps=-all",
    "--ambient-caps=-all",
    "--bounding-set=-all",
    "--no-new-privs",
  ];
  const supervisor = [busybox, "sh", "-c", supervisorScript, "roost-vm-supervisor", layout.runFolder, ...plan.command];
  const files = [
    ...plan.readOnlyFiles.map((path) => ({ path, options: "ro,noexec" })),
    ...plan.writableFiles.map((path) => ({ path, options: "rw,noexec" })),
  ];
  const mounts = [{ path: "/usr", options: "ro" }, { path: layout.runFolder, options: "rw,noexec" }, ...files];
  const folders = [
    "old",
    "etc",
    "usr",
    `.${layout.runFolder}`,
    ...plan.devices.map((device) => dirname(`dev/${device.name}`)),
    ...files.map((mount) => dirname(`.${mount.path}`)),
  ];
  return [
    "set -eu",
    "umask 022",
    ...plan.cgroupProcs.map((path) => `echo $$ >${quote(path)}`),
    `echo ${oomScoreAdjustment} >/proc/self/oom_score_adj`,
    `cd ${quote(layout.rootFolder)}`,
    "mount -t tmpfs -o mode=0755,size=1m,nr_inodes=512 roost-vm .",
    `cd ${quote(layout.rootFolder)}`, // again: the first one is below the mount
    `mkdir -p ${folders.map(quote).join(" ")}`,
    ...files.map((mount) => `: >${quote(`.${mount.path}`)}`),
    ...mounts.flatMap((mount) => [
      `mount -o bind ${quote(mount.path)} ${quote(`.${mount.path}`)}`,
      `mount -o remount,bind,nosuid,nodev,${mount.options} ${quote(`.${mount.path}`)}`, // a bind alone keeps its source's options
    ]),
    "ln -s usr/bin usr/sbin usr/lib usr/lib64 .",
    "cp /etc/ld.so.cache etc", // else the loader searches for each of a hundred libraries
    ...plan.devices.map((device) => `mknod -m 0666 ${quote(`dev/${device.name}`)} c ${device.major} ${device.minor}`),
    "mount -o remount,ro,nosuid,noexec .",
    "pivot_root . old",
    "cd /",
    "umount -l old",
    `ulimit -c 0 -n ${openFilesMax} -u ${processesMax} -l 64 -f ${plan.fileSizeMibMax * 2_048}`,
    `exec /usr/bin/setpriv ${privileges.join(" ")} ${supervisor.map(quote).join(" ")}`,
  ].join("\n");
}

/**
 * Runs unprivileged, as the VM's uid. `head` copies unbuffered and stops after `-c` bytes, so each file of the console is
 * bounded and the newest output is on disk at once, also when nobody is left to ask the VMM for it. If the disk is full the
 * output is thrown away: a guest whose console blocks would stop. The exit is written last, when the console is complete.
 */
const supervisorScript = `umask 077
cd "$1"; shift
mkfifo console.pipe
"$@" </dev/null >console.pipe 2>&1 &
vmm=$!
exec <console.pipe
rm console.pipe
echo $vmm >vmm.pid
while /usr/bin/stdbuf -o0 /usr/bin/head -c ${consoleFileBytesMax} >${consoleFileName} && [ "$(stat -c %s ${consoleFileName})" -ge ${consoleFileBytesMax} ]; do
  mv ${consoleFileName} ${consoleOldFileName}
done
cat >/dev/null
wait $vmm
echo $? >exit.new && /usr/bin/sync exit.new && mv exit.new exit && /usr/bin/sync .`;

function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
