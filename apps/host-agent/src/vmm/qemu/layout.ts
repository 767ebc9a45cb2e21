import { join } from "node:path";

import { consoleFileName, consoleOldFileName } from "../console.ts";

/**
 * What lies in the folder of a VM.
 *
 *     folder/           the host agent's
 *       launch.log      what the launcher said before QEMU was there; bounded, the guest cannot write to it
 *       root/           empty mount point of the VMM's own root file system (mounted only in its namespace)
 *       run/            the VM's: its uid owns it, and it is all that the VMM can write to but the overlay
 *         qmp.sock      control socket
 *         console[.old] newest output of guest and QEMU
 *         vmm.pid       QEMU's pid
 *         exit          how QEMU ended: a shell's exit status, written by the supervisor, fsynced
 */
export function vmLayout(folder: string) {
  const runFolder = join(folder, "run");
  return {
    folder,
    launchLog: join(folder, "launch.log"),
    rootFolder: join(folder, "root"),
    runFolder,
    qmpSocket: join(runFolder, "qmp.sock"),
    console: join(runFolder, consoleFileName),
    consoleOld: join(runFolder, consoleOldFileName),
    pidFile: join(runFolder, "vmm.pid"),
    exitFile: join(runFolder, "exit"),
  };
}
export type VmLayout = ReturnType<typeof vmLayout>;
