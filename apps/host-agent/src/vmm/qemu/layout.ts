import { join } from "node:path";

import { consoleFileName, consoleOldFileName } from "../console.ts";

const qmpSocketName = "qmp.sock";
const deviceStateName = "device.state";

/**
 * What lies in the folder of a VM.
 *
 *     folder/           the host agent's
 *       launch.log      what the launcher said before QEMU was there; bounded, the guest cannot write to it
 *       mounts          what the VMM's root file system is put together of
 *       run/            the VM's: its uid owns it, and it is all that the VMM can write to but the top layer of its disk
 *         qmp.sock      control socket
 *         console[.old] newest output of guest and QEMU
 *         vmm.pid       QEMU's pid
 *         device.state  only while device state is saved or loaded
 *         exit          how QEMU ended: a shell's exit status, written by the supervisor, fsynced
 */
export function vmLayout(folder: string) {
  const runFolder = join(folder, "run");
  return {
    folder,
    launchLog: join(folder, "launch.log"),
    mountTable: join(folder, "mounts"),
    runFolder,
    qmpSocket: join(runFolder, qmpSocketName),
    console: join(runFolder, consoleFileName),
    consoleOld: join(runFolder, consoleOldFileName),
    pidFile: join(runFolder, "vmm.pid"),
    deviceState: join(runFolder, deviceStateName),
    exitFile: join(runFolder, "exit"),
  };
}
export type VmLayout = ReturnType<typeof vmLayout>;

/**
 * Where the VMM sees its files. The same for every VM and whatever the host calls them: a running VM's folder may be renamed, and nothing in
 * the VMM tells where on the host it lies.
 */
export const insidePaths = {
  run: "/vm/run",
  /** Folder of the root disk's layers */
  disk: "/vm/disk",
  /** Base file of the guest's memory */
  memory: "/vm/memory",
  kernel: "/vm/kernel",
  initramfs: "/vm/initramfs",
  /** Relative to `run`, its working folder: the kernel takes at most 107 bytes as the path of a socket */
  qmpSocket: qmpSocketName,
  deviceState: `/vm/run/${deviceStateName}`,
} as const;
