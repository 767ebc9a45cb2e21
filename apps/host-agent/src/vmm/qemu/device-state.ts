import { closeSync, constants, fchmodSync, fstatSync, openSync, readSync, rmSync, writeSync } from "node:fs";

import { PlatformError } from "@roost/contract";
import { DeadlineError, MiB, second, sleep } from "@roost/kit";
import { z } from "zod";

import { insidePaths, type VmLayout } from "./layout.ts";
import type { QmpClient } from "./qmp.ts";

/** Device state of a VM in `bytes` at most: some 30 KiB in practice, a few MiB with many CPUs. More means a broken or hostile VMM. */
const deviceStateBytesMax = 16 * MiB;
/** Time a VMM has to load device state in `ms`; it takes 3. */
const loadTimeoutMs = 30 * second;
/** Time between two looks at whether it has, in `ms`. */
const loadPollMs = 1;

const statusSchema = z.object({ running: z.boolean(), status: z.string().max(64) });

/** `paused`, `running`, `inmigrate`…, as QEMU calls it, and whether the CPUs run. */
export async function readStatus(qmp: QmpClient): Promise<{ readonly running: boolean; readonly status: string }> {
  return statusSchema.parse(await qmp.execute("query-status"));
}

/**
 * Saves the device state of a stopped VM to a new file. The VMM can only write to its own folder, so it writes there, and the file is
 * copied: what a manifest names must not be open for writing anywhere.
 *
 * The files are small and the guest waits: handing each step to another thread would take longer than all of them.
 */
export async function saveDeviceState(qmp: QmpClient, layout: VmLayout, path: string): Promise<void> {
  remove(layout.deviceState);
  try {
    // Despite its name nothing about it is Xen's: all devices and CPUs, no memory.
    const saving = qmp.execute("xen-save-devices-state", { filename: insidePaths.deviceState, live: false });
    const [{ running }] = await Promise.all([readStatus(qmp), saving]); // sent together, answered in the order they were asked
    if (running) throw new Error("the guest runs: what was saved is of no instant");
    writeNew(path, readBounded(layout.deviceState));
  } finally {
    remove(layout.deviceState);
  }
}

/** Puts device state where the VMM that is about to start will see it. */
export function placeDeviceState(layout: VmLayout, path: string): void {
  writeNew(layout.deviceState, readBounded(path));
}

/** Makes a VMM that was started for it load the device state that was placed; its guest then runs. */
export async function loadDeviceState(qmp: QmpClient, layout: VmLayout, signal: AbortSignal | undefined): Promise<void> {
  await qmp.execute("migrate-incoming", { uri: `file:${insidePaths.deviceState}` }, { timeoutMs: loadTimeoutMs });
  const running = await loaded(qmp, signal);
  if (!running) await qmp.execute("cont");
  remove(layout.deviceState);
}

/** Waits until a VMM has loaded what it was told to; whether its guest runs. A VMM that cannot load it says why, and ends: that ends the wait too. */
async function loaded(qmp: QmpClient, signal: AbortSignal | undefined): Promise<boolean> {
  const end = performance.now() + loadTimeoutMs;
  for (;;) {
    const { running, status } = await readStatus(qmp);
    if (status !== "inmigrate") return running;
    if (performance.now() > end) throw new DeadlineError("loading device state", loadTimeoutMs);
    await sleep(loadPollMs, signal);
  }
}

/** In a folder that the VMM can write to: a link, a pipe or a device in the place of the file is refused, and so is a file without end. */
function readBounded(path: string): Buffer {
  const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const status = fstatSync(file);
    if (!status.isFile() || status.size === 0 || status.size > deviceStateBytesMax) {
      throw new PlatformError("image_damaged", "the sandbox's device state is damaged", {
        detail: `${path}: ${status.isFile() ? `${status.size} bytes` : "not a file"}`,
      });
    }
    const content = Buffer.alloc(status.size);
    return content.subarray(0, readSync(file, content, 0, content.length, 0));
  } finally {
    closeSync(file);
  }
}

/** Readable by all, so by the VMM; writable by nobody. */
function writeNew(path: string, content: Buffer): void {
  const file = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o444);
  try {
    fchmodSync(file, 0o444); // whatever the umask
    for (let written = 0; written < content.length;) written += writeSync(file, content, written);
  } finally {
    closeSync(file);
  }
}

/** Never a folder with its content: that would be a walk through what the VMM may be changing meanwhile. */
function remove(path: string): void {
  rmSync(path, { force: true });
}
