import {
  envsSchema,
  memoryMibMax,
  memoryMibMin,
  sandboxIdSchema,
  sandboxStates,
  templateNameSchema,
  timeoutSecMax,
  vcpusMax,
} from "@roost/contract";
import { z } from "zod";

import { vmExitSchema, vmRecordSchema } from "../vmm/driver.ts";

/** What a sandbox was asked to be. Checked again here: the host agent does not trust whoever calls it. */
export const sandboxSpecSchema = z.object({
  sandboxId: sandboxIdSchema,
  template: templateNameSchema,
  vcpus: z.int().min(1).max(vcpusMax),
  memoryMib: z.int().min(memoryMibMin).max(memoryMibMax),
  /** Size of the guest's disk in `MiB`; 0 = as its template says */
  diskSizeMib: z
    .int()
    .min(0)
    .max(64 * 1024 * 1024),
  /** Inactivity in `s` after which the sandbox is stopped; 0 = never */
  timeoutSec: z.int().min(0).max(timeoutSecMax),
  envs: envsSchema,
  accessToken: z.string().min(1).max(512),
});
export type SandboxSpec = z.infer<typeof sandboxSpecSchema>;

export const stopReasons = ["deleted", "timeout", "shutdown"] as const;
export type StopReason = (typeof stopReasons)[number];

/** `sandbox.json`: what the host agent knows of a sandbox, durable before anything about it is acknowledged. */
export const sandboxRecordSchema = z
  .object({
    formatVersion: z.literal(1),
    spec: sandboxSpecSchema,
    state: z.enum(sandboxStates),
    /** Counts the visible changes */
    generation: z.int().positive(),
    /** Number of the network slot it holds */
    slot: z.int().min(0).nullable(),
    /** The VM it runs in, as the driver needs it for adoption */
    vm: vmRecordSchema.nullable(),
    timeCreatedMs: z.int(),
    timeStartedMs: z.int().nullable(),
    /** A newer instant may stand in the file `last-active` */
    timeLastActiveMs: z.int(),
    /** For users; set exactly when `state` is failed */
    failureReason: z.string().nullable(),
    vmExit: vmExitSchema.nullable(),
    stopReason: z.enum(stopReasons).nullable(),
    /** When it became `stopped` or `failed` */
    timeEndedMs: z.int().nullable(),
    /** `kernel`, `vmm`, `accelerator`, `guest_agent` */
    versions: z.record(z.string(), z.string()),
  })
  .refine(
    (record) => (record.state === "failed") === (record.failureReason !== null),
    "a failure reason belongs to failed, and only to it",
  );
export type SandboxRecord = z.infer<typeof sandboxRecordSchema>;

export function newRecord(spec: SandboxSpec, nowMs: number): SandboxRecord {
  return {
    formatVersion: 1,
    spec,
    state: "creating",
    generation: 1,
    slot: null,
    vm: null,
    timeCreatedMs: nowMs,
    timeStartedMs: null,
    timeLastActiveMs: nowMs,
    failureReason: null,
    vmExit: null,
    stopReason: null,
    timeEndedMs: null,
    versions: {},
  };
}
