import type { Logger, Turns } from "@roost/kit";

import type { HeldImages } from "../images/held-images.ts";
import type { ImageCatalog } from "../images/image-catalog.ts";
import type { LogStore } from "../logs/log-store.ts";
import type { Network } from "../network/network.ts";
import type { Accelerator, VmmDriver } from "../vmm/driver.ts";
import type { Capacity } from "./capacity.ts";
import type { HostEvents } from "./host-events.ts";
import type { Disks } from "./disks.ts";
import type { RecordStore } from "./record-store.ts";
import type { SandboxRecord } from "./sandbox-record.ts";
import type { Watchers } from "./watchers.ts";

/** What all sandboxes of a host share. */
export interface SandboxContext {
  readonly driver: VmmDriver;
  readonly network: Network;
  readonly disks: Disks;
  readonly images: ImageCatalog;
  readonly heldImages: HeldImages;
  readonly store: RecordStore;
  readonly capacity: Capacity;
  readonly watchers: Watchers<SandboxRecord>;
  readonly accelerator: Accelerator;
  /** How many may boot at the same time */
  readonly startTurns: Turns;
  /** The same for restores, which take a CPU for a fraction of a second */
  readonly restoreTurns: Turns;
  readonly times: SandboxTimes;
  readonly policy: ImagePolicy;
  /** Rejects with `capacity_exhausted` when the machine has no memory for guests of so many `MiB` right now, or `host_disk_full` */
  readonly checkRoom: (memoryMib: number) => Promise<void>;
  /** A file of zeros of this many `MiB`: what the memory of a guest that boots begins as */
  readonly zeroMemory: (memoryMib: number) => Promise<string>;
  /** Tells whoever listens what happened */
  readonly events: HostEvents;
  readonly logs: LogStore;
  /** Cgroup of a sandbox's VM; undefined: none */
  readonly cgroupOf: (sandboxId: string) => string | undefined;
  readonly log: Logger;
  /** Called and awaited at each step; what it throws makes the step fail. For tests. */
  readonly onStep?: (step: LifeStep, sandboxId: string) => Promise<void> | void;
}

/** When memory images are tidied up. */
export interface ImagePolicy {
  /** Checkpoints kept of a sandbox beside its current generation */
  readonly checkpointsKept: number;
  /** A paused sandbox whose memory diff is above this many `bytes` gets a base file of its own */
  readonly rebaseBytes: number;
  /** A disk with more layers than this, its top layer counted, is merged */
  readonly layersMax: number;
}

/** The steps of a start, in order; each failure undoes those before it. */
export const createSteps = [
  "link-image",
  "await-turn",
  "acquire-slot",
  "make-layer",
  "start-vm",
  "keep-vm-record",
  "await-guest",
  "init-guest",
] as const;
export type CreateStep = (typeof createSteps)[number];

/** Moments between what is done to a sandbox; with `durableSteps` of its image folder, all those at which a crash could leave it half-way. */
export type LifeStep =
  | CreateStep
  /** A capture's next top layer is recorded, the guest stopped, its memory saved, its disk frozen; it goes on */
  | "capture:layer-recorded"
  | "capture:stopped"
  | "capture:saved"
  | "capture:layer-pushed"
  | "capture:continued"
  | "capture:committed"
  /** The new state is recorded and can be seen; the VM of a pause has ended; … */
  | "pause:recorded"
  | "pause:vm-ended"
  | "resume:recorded"
  | "rollback:recorded"
  | "rollback:current-set"
  | "rollback:vm-ended"
  | "fork:child-recorded"
  | "fork:child-linked"
  | "template:filled"
  | "template:renamed"
  | "template:trashed"
  | "upkeep:layers-merged"
  | "upkeep:merge-committed"
  | "delete:recorded"
  | "delete:vm-ended"
  | "delete:removed"
  /** A sandbox that came from another host is whole in its folder, and is one of this host's */
  | "arrival:assembled"
  | "arrival:adopted";

export interface SandboxTimes {
  /** From the VMM's start to the guest agent's first answer, in `ms` */
  readonly bootTimeoutMs: number;
  /** Time a guest agent whose process ended has to come back, in `ms` */
  readonly guestRecoveryTimeoutMs: number;
  /** After an adoption no sandbox is stopped for inactivity sooner than this, in `ms`: nobody could use it meanwhile */
  readonly adoptionGraceMs: number;
  /** Time that requests to ports have to end before their sandbox is paused, in `ms` */
  readonly pauseDrainMs: number;
}

/** With hardware virtualization a guest boots in a second; a minute means it hangs. */
const kvmBootTimeoutMs = 60_000;
/** Emulated, it takes two to five seconds alone, and minutes when dozens boot on two cores at once. */
const tcgBootTimeoutMs = 180_000;

export function timesOf(accelerator: Accelerator): SandboxTimes {
  return {
    bootTimeoutMs: accelerator === "kvm" ? kvmBootTimeoutMs : tcgBootTimeoutMs,
    guestRecoveryTimeoutMs: accelerator === "kvm" ? 15_000 : 45_000,
    adoptionGraceMs: 30_000,
    pauseDrainMs: 5_000,
  };
}
