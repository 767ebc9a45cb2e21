import { consoleFileBytesMax, consoleFileName, consoleOldFileName } from "../console.ts";
import { insidePaths } from "./layout.ts";

/**
 * The supervisor of a VMM: its parent, which keeps the newest of what it prints, waits for it, and writes how it ended, whether or not
 * a host agent is there. A script, because a resident Node.js would cost each VM 40 MiB.
 *
 * Runs unprivileged, as the VM's uid. `head` copies unbuffered and stops after `-c` bytes, so each file of the console is
 * bounded and the newest output is on disk at once, also when nobody is left to ask the VMM for it. If the disk is full the
 * output is thrown away: a guest whose console blocks would stop. The exit is written last, when the console is complete.
 */
const script = `umask 077
cd ${insidePaths.run}
mkfifo console.pipe
# One heap for all threads: each would get its own, and leave it half empty
MALLOC_ARENA_MAX=1 "$@" </dev/null >console.pipe 2>&1 &
vmm=$!
exec <console.pipe 3<&- 4<&-
echo $vmm >vmm.pid
rm console.pipe
while /usr/bin/stdbuf -o0 /usr/bin/head -c ${consoleFileBytesMax} >${consoleFileName} && [ "$(stat -c %s ${consoleFileName})" -ge ${consoleFileBytesMax} ]; do
  mv ${consoleFileName} ${consoleOldFileName}
done
cat >/dev/null
wait $vmm
echo $? >exit.new && /usr/bin/sync exit.new && mv exit.new exit && /usr/bin/sync .`;

/** The command that supervises another, to be run where both are confined. */
export function supervisedCommand(command: readonly string[]): string[] {
  return ["/usr/bin/busybox", "sh", "-c", script, "roost-vm-supervisor", ...command];
}
