import type { Generation } from "../memory/image-folder.ts";
import type { SandboxRecord } from "./sandbox-record.ts";

/** What a record says of the generation the sandbox would go back to. */
export function pausedAt(generation: Generation): Partial<SandboxRecord> {
  return {
    currentGeneration: generation.number,
    hasMemory: generation.manifest.memory !== null,
    hasOwnGeneration: generation.manifest.kind !== "template",
  };
}
