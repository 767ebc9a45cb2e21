import { checkFreeSpace, freeBytes } from "../disk/free-space.ts";
import { createLayer, freezeLayer, type LayerOptions } from "../disk/layers.ts";
import { mergeLayers, type MergeOptions } from "../disk/merge-layers.ts";

/** The port to the host's disks, so that tests need no qemu-img. */
export interface Disks {
  /** Throws `host_disk_full` when new work of `neededBytes` would eat into the reserve. */
  check(neededBytes?: number): Promise<void>;
  /** Makes an empty layer, durable, owned by the VM that will write it. */
  createLayer(options: LayerOptions): Promise<void>;
  /** From now on nobody writes this layer, and nobody but root can. Idempotent. */
  freezeLayer(path: string): Promise<void>;
  /** One new layer that shows what `layers` show together, frozen and durable. */
  mergeLayers(options: MergeOptions): Promise<void>;
  freeBytes(): Promise<number>;
}

/** qcow2 layers in the state folder. */
export function createDisks(stateDir: string): Disks {
  return {
    check: (neededBytes) => checkFreeSpace(stateDir, neededBytes),
    createLayer,
    freezeLayer,
    mergeLayers,
    freeBytes: () => freeBytes(stateDir),
  };
}
