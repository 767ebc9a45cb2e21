import { checkFreeSpace, freeBytes } from "../disk/free-space.ts";
import { createOverlay, type OverlayOptions } from "../disk/overlay.ts";

/** The port to the host's disks, so that tests need no qemu-img. */
export interface Disks {
  /** Throws `host_disk_full` when new work would eat into the reserve. */
  check(): Promise<void>;
  createOverlay(options: OverlayOptions): Promise<void>;
  freeBytes(): Promise<number>;
}

/** qcow2 overlays in the state folder. */
export function createDisks(stateDir: string): Disks {
  return {
    check: () => checkFreeSpace(stateDir),
    createOverlay,
    freeBytes: () => freeBytes(stateDir),
  };
}
