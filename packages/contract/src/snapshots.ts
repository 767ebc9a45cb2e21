import { z } from "zod";

import { sandboxIdSchema } from "./ids.ts";
import { forkCountMax, timeoutSecMax } from "./limits.ts";
import { errorCodes } from "./errors.ts";
import { metadataSchema, sandboxSchema, templateNameSchema } from "./sandboxes.ts";

/** Saving a sandbox and starting from what was saved: pause, resume, generations, fork, snapshots. */

export const pauseSandboxBodySchema = z
  .strictObject({
    memory: z.boolean().default(true).describe("false: save the disk only; a resume then boots"),
  })
  .meta({ id: "PauseSandbox" });
export type PauseSandboxInput = z.input<typeof pauseSandboxBodySchema>;

export const resumeSandboxBodySchema = z
  .strictObject({
    memory: z.boolean().default(true).describe("false: boot from the disk, whatever memory was saved"),
    timeout_sec: z.int().min(0).max(timeoutSecMax).optional().describe("A new inactivity timeout in `s`; 0 = never"),
  })
  .meta({ id: "ResumeSandbox" });
export type ResumeSandboxInput = z.input<typeof resumeSandboxBodySchema>;

/** What a generation was made for; `start` is what the sandbox began from. */
export const generationKinds = ["start", "pause", "checkpoint", "snapshot", "fork"] as const;
export type GenerationKind = (typeof generationKinds)[number];

export const generationSchema = z
  .object({
    number: z.int(),
    kind: z.string().describe("`pause`, `checkpoint`, `snapshot`, `fork`, or `start` for what the sandbox began from"),
    created_at: z.iso.datetime(),
    has_memory: z.boolean().describe("false: disk only"),
    size_bytes: z.number().describe("On the host's disk; files shared with other generations count in each"),
    is_current: z.boolean().describe("The one that a resume uses"),
  })
  .meta({ id: "Generation" });
export type Generation = z.infer<typeof generationSchema>;
export const generationListSchema = z
  .object({ sandbox_id: sandboxIdSchema, generations: z.array(generationSchema).describe("Newest first") })
  .meta({ id: "GenerationList" });
export type GenerationList = z.infer<typeof generationListSchema>;

export const checkpointSchema = z.object({ sandbox: sandboxSchema, generation: generationSchema }).meta({ id: "Checkpoint" });
export type Checkpoint = z.infer<typeof checkpointSchema>;

export const rollbackSandboxBodySchema = z
  .strictObject({ generation: z.int().min(1).max(0xffff_ffff).describe("Number of a kept generation") })
  .meta({ id: "RollbackSandbox" });

export const forkSandboxBodySchema = z
  .strictObject({
    count: z.int().min(1).max(forkCountMax).describe("Sandboxes to make"),
    metadata: metadataSchema.optional().describe("Of the children; default: the parent's"),
  })
  .meta({ id: "ForkSandbox" });
export type ForkSandboxInput = z.input<typeof forkSandboxBodySchema>;
export type ForkSandboxBody = z.output<typeof forkSandboxBodySchema>;
export const forkResultSchema = z.union([
  z.object({ sandbox: sandboxSchema }),
  z.object({ error: z.object({ code: z.enum(errorCodes), message: z.string() }) }),
]);
export type ForkResult = z.infer<typeof forkResultSchema>;
export const forkSchema = z.object({ results: z.array(forkResultSchema).describe("One per child") }).meta({ id: "Fork" });
export type Fork = z.infer<typeof forkSchema>;

export const createSnapshotBodySchema = z
  .strictObject({
    sandbox_id: sandboxIdSchema,
    name: templateNameSchema.describe("Sandboxes are created from it as from a template; no template has the name yet"),
    memory: z.boolean().default(true).describe("false: the disk alone; sandboxes from it boot, in any size"),
  })
  .meta({ id: "CreateSnapshot" });
export type CreateSnapshotInput = z.input<typeof createSnapshotBodySchema>;
export type CreateSnapshotBody = z.output<typeof createSnapshotBodySchema>;

export const snapshotSchema = z
  .object({
    name: z.string(),
    created_at: z.iso.datetime(),
    source_sandbox_id: z.string().nullable(),
    has_memory: z.boolean().describe("Sandboxes from it go on where the snapshot was taken; false: they boot"),
    vcpus: z.int().nullable().describe("Of every sandbox from it; null: any"),
    memory_mb: z.int().nullable().describe("Guest memory in `MiB` of every sandbox from it; null: any"),
    disk_mb: z.int(),
    size_bytes: z.number().describe("On the host's disk"),
    digest: z.string(),
  })
  .meta({ id: "Snapshot" });
export type Snapshot = z.infer<typeof snapshotSchema>;
export const snapshotListSchema = z.object({ snapshots: z.array(snapshotSchema).describe("By name") }).meta({ id: "SnapshotList" });
export type SnapshotList = z.infer<typeof snapshotListSchema>;
