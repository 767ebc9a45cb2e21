import type { Logger } from "@roost/kit";

import type { ImageCatalog } from "../images/image-catalog.ts";
import type { Network } from "../network/network.ts";
import type { Accelerator, VmmDriver } from "../vmm/driver.ts";
import type { Capacity } from "./capacity.ts";
import type { Disks } from "./disks.ts";
import type { RecordStore } from "./record-store.ts";
import type { SandboxRecord } from "./sandbox-record.ts";
import type { StartGate } from "./start-gate.ts";
import type { Watchers } from "./watchers.ts";

/** What all sandboxes of a host share. */
export interface SandboxContext {
  readonly driver: VmmDriver;
  readonly network: Network;
  readonly disks: Disks;
  readonly images: ImageCatalog;
  readonly store: RecordStore;
  readonly capacity: Capacity;
  readonly watchers: Watchers<SandboxRecord>;
  readonly accelerator: Accelerator;
  readonly startGate: StartGate;
  readonly times: SandboxTimes;
  /** Cgroup of a sandbox's VM; undefined: none */
  readonly cgroupOf: (sandboxId: string) => string | undefined;
  readonly log: Logger;
  /** Called as each step of a create begins; what it throws makes the step fail. For tests. */
  readonly onStep?: (step: CreateStep, sandboxId: string) => Promise<void> | void;
}

/** The steps of a create, in order; each failure undoes those before it. */
export const createSteps = [
  "find-template",
  "await-turn",
  "acquire-slot",
  "make-overlay",
  "start-vm",
  "keep-vm-record",
  "await-guest",
  "init-guest",
] as const;
export type CreateStep = (typeof createSteps)[number];

export interface SandboxTimes {
  /** From the VMM's start to the guest agent's first answer, in `ms` */
  readonly bootTimeoutMs: number;
  /** Time a guest agent whose process ended has to come back, in `ms` */
  readonly guestRecoveryTimeoutMs: number;
  /** After an adoption no sandbox is stopped for inactivity sooner than this, in `ms`: nobody could use it meanwhile */
  readonly adoptionGraceMs: number;
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
  };
}
