import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";

import { z } from "zod";

import type { VmSpec } from "./driver.ts";
import type { FakeMemory } from "./fake-memory.ts";

/**
 * Device state of a fake VM: says which VM and which memory it was saved with, so that one that was cut off, or put together
 * with another's memory, is refused. (A real VMM notices only the first.)
 */
const deviceStateSchema = z.strictObject({
  fake: z.literal("device state"),
  vcpus: z.int(),
  memoryMib: z.int(),
  /** Of what the guest knew */
  memoryDigest: z.string(),
  end: z.literal("end"),
});

/** Writes to a new file. */
export async function writeDeviceState(path: string, spec: VmSpec, memory: FakeMemory): Promise<void> {
  const state: z.infer<typeof deviceStateSchema> = {
    fake: "device state",
    vcpus: spec.vcpus,
    memoryMib: spec.memoryMib,
    memoryDigest: digestOf(memory),
    end: "end",
  };
  await writeFile(path, JSON.stringify(state), { flag: "wx", mode: 0o444 });
}

/** Why a VM cannot begin with this device state; undefined when it can. */
export async function readDeviceState(path: string, spec: VmSpec, memory: FakeMemory): Promise<string | undefined> {
  let state;
  try {
    state = deviceStateSchema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch (error) {
    return `not a device state: ${error instanceof Error ? error.message : String(error)}`;
  }
  if (state.vcpus !== spec.vcpus || state.memoryMib !== spec.memoryMib) return "the device state is of a VM of another size";
  return state.memoryDigest === digestOf(memory) ? undefined : "the device state belongs to another memory";
}

function digestOf(memory: FakeMemory): string {
  return createHash("sha256")
    .update(JSON.stringify(memory.recall() ?? null))
    .digest("hex");
}
