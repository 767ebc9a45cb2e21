import {
  allowOutSchema,
  checkpointIntervalSecMax,
  denyOutSchema,
  domainsNeedDenyAll,
  egressProxySchema,
  guestConnectionsMax,
  guestConnectionsPerSecMax,
  mbitPerSecMax,
  envsSchema,
  headerRulesSchema,
  isDomain,
  memoryMibMax,
  memoryMibMin,
  sandboxIdSchema,
  sandboxStates,
  templateDefaultsSchema,
  templateReferenceLengthMax,
  templateNameSchema,
  timeoutSecMax,
  vcpusMax,
} from "@roost/contract";
import { z } from "zod";

import { authoritySchema } from "../egress/sandbox-authority.ts";
import { generationVmSchema } from "../memory/manifest.ts";
import { vmExitSchema, vmRecordSchema } from "../vmm/driver.ts";

const limitOf = (max: number) => z.int().min(1).max(max).nullable().default(null);
const egressLimitsSchema = z
  .object({
    outMbit: limitOf(mbitPerSecMax),
    inMbit: limitOf(mbitPerSecMax),
    connections: limitOf(guestConnectionsMax),
    connectionsPerSec: limitOf(guestConnectionsPerSecMax),
  })
  .prefault({});

/** What the guest may reach. Entries are checked as in the public API, and that no name is allowed where everything is. */
export const egressPolicySchema = z
  .object({
    allowOut: allowOutSchema,
    denyOut: denyOutSchema,
    proxy: egressProxySchema.nullable().default(null),
    rules: headerRulesSchema.prefault({}),
    limits: egressLimitsSchema,
  })
  .refine(({ allowOut, denyOut }) => !allowOut.some(isDomain) || denyOut.some((entry) => entry.endsWith("/0")), domainsNeedDenyAll);

/** The same with what the host adds. */
const hostEgressSchema = egressPolicySchema.and(z.object({ authority: authoritySchema.nullable().default(null) }));

/** What a sandbox was asked to be. Checked again here: the host agent does not trust whoever calls it. */
export const sandboxSpecSchema = z.object({
  sandboxId: sandboxIdSchema,
  template: templateNameSchema,
  /** What users call it; empty: the same */
  templateName: z.string().max(templateReferenceLengthMax).default(""),
  /** 0, in what is asked: as the template says */
  vcpus: z.int().min(0).max(vcpusMax),
  /** In `MiB`; 0, in what is asked: as the template says */
  memoryMib: z.union([z.literal(0), z.int().min(memoryMibMin).max(memoryMibMax)]),
  /** Size of the guest's disk in `MiB`; 0 = as its template says */
  diskSizeMib: z
    .int()
    .min(0)
    .max(64 * 1024 * 1024),
  /** Inactivity in `s` after which the sandbox is paused; 0 = never */
  timeoutSec: z.int().min(0).max(timeoutSecMax),
  /** A checkpoint is made every so many `s` while it runs; 0 = never */
  checkpointIntervalSec: z.int().min(0).max(checkpointIntervalSecMax),
  envs: envsSchema,
  accessToken: z.string().min(1).max(512),
  network: hostEgressSchema,
  /** Its `envs` lie below the `envs` above; both are kept, so that a template made of the sandbox has the one and not the other */
  defaults: templateDefaultsSchema.prefault({}),
});
export type SandboxSpec = z.infer<typeof sandboxSpecSchema>;

/** What a create asks for; `defaults` absent: as the template says. */
export const askedSpecSchema = sandboxSpecSchema.extend({ network: egressPolicySchema, defaults: templateDefaultsSchema.optional() });
export type AskedSpec = z.infer<typeof askedSpecSchema>;

/** Name of its template for users. */
export function shownTemplate({ template, templateName }: Pick<SandboxSpec, "template" | "templateName">): string {
  return templateName || template;
}

export const stopReasons = ["deleted", "shutdown"] as const;
export type StopReason = (typeof stopReasons)[number];

/** Name of a layer in a disk folder. */
export const layerNameSchema = z.string().regex(/^[a-z][a-z0-9-]{0,63}\.qcow2$/);
/** Layers of one disk; far above what flattening lets it come to. */
const layerCountMax = 256;

/** `pool`: a VM that was waiting · `restore`: from a memory image · `boot`: its kernel started */
export const startPaths = ["pool", "restore", "boot"] as const;
export type StartPath = (typeof startPaths)[number];

/** Of the control plane's choice. */
export const moveIdSchema = z.uuid();

/** `sandbox.json`: what the host agent knows of a sandbox, durable before anything about it is acknowledged. */
export const sandboxRecordSchema = z
  .object({
    formatVersion: z.literal(2),
    spec: sandboxSpecSchema,
    state: z.enum(sandboxStates),
    /** Counts the visible changes */
    revision: z.int().positive(),
    /** Number of the network slot it holds */
    slot: z.int().min(0).nullable(),
    /** The VM it runs in, as the driver needs it for adoption */
    vm: vmRecordSchema.nullable(),
    /** The raw image its disk's layers lie on, and its size; null until a create knows */
    disk: z
      .object({
        base: z.string().startsWith("/").max(4_096),
        baseDigest: z.string().max(128),
        sizeMib: z.int().positive(),
      })
      .nullable(),
    /**
     * Layers of its disk in `disk/`, oldest first. Written down before a VMM uses a new one, so the last may be empty and unused: an empty layer
     * changes nothing.
     */
    layers: z.array(layerNameSchema).max(layerCountMax),
    /** What its VM is made of, as the manifests of its generations tell; of its last VM when it has none */
    machine: generationVmSchema.nullable(),
    /** File in `memory/` that the memory of its VM began as; null without VM */
    baseMemory: z.string().max(128).nullable(),
    /** The generation it would go back to without its VM, as the image folder's `current` says; null: none */
    currentGeneration: z.int().positive().nullable(),
    /** That generation holds memory, not only the disk */
    hasMemory: z.boolean(),
    /** That generation was made of this sandbox: not the one it started from */
    hasOwnGeneration: z.boolean(),
    /** How its VM started last */
    startPath: z.enum(startPaths).nullable(),
    timeCreatedMs: z.int(),
    timeStartedMs: z.int().nullable(),
    timePausedMs: z.int().nullable(),
    /** What its user should know: how it came to be as it is, and what can be done */
    notice: z.string().max(1_024).nullable(),
    /** A newer instant may stand in the file `last-active` */
    timeLastActiveMs: z.int(),
    /** For users; set when `state` is failed, and while a resume from there is tried */
    failureReason: z.string().nullable(),
    vmExit: vmExitSchema.nullable(),
    stopReason: z.enum(stopReasons).nullable(),
    /** When it became `stopped` or `failed` */
    timeEndedMs: z.int().nullable(),
    /** `kernel`, `vmm`, `accelerator`, `guest_agent` */
    versions: z.record(z.string(), z.string()),
    /** The move to or from another host that holds it still; null: none does */
    transit: z.object({ moveId: moveIdSchema, arriving: z.boolean() }).nullable().default(null),
  })
  .refine((record) => record.state !== "failed" || record.failureReason !== null, "what has failed says why");
export type SandboxRecord = z.infer<typeof sandboxRecordSchema>;

/** What the record of a sandbox without VM says of it. */
export const noVm = { slot: null, vm: null, baseMemory: null } satisfies Partial<SandboxRecord>;

export function newRecord(spec: SandboxSpec, nowMs: number): SandboxRecord {
  return {
    formatVersion: 2,
    spec,
    state: "creating",
    revision: 1,
    ...noVm,
    disk: null,
    layers: [],
    machine: null,
    currentGeneration: null,
    hasMemory: false,
    hasOwnGeneration: false,
    startPath: null,
    timeCreatedMs: nowMs,
    timeStartedMs: null,
    timePausedMs: null,
    notice: null,
    timeLastActiveMs: nowMs,
    failureReason: null,
    vmExit: null,
    stopReason: null,
    timeEndedMs: null,
    versions: {},
    transit: null,
  };
}
