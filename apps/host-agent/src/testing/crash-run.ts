import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { newSandboxId } from "@roost/contract";
import { expect } from "vitest";

import type { CrashOperation } from "./crash-scenarios.ts";

/** What `crash-child.ts` is to do. */
export interface CrashOrder {
  readonly driver: "fake" | "qemu";
  /** Of the fake host, or the state folder of a real one */
  readonly folder: string;
  readonly operation: CrashOperation;
  readonly sandboxId: string;
  /** Ids of those that a fork makes */
  readonly children: readonly string[];
  /** Index of the step at which it is killed; null: after the last one */
  readonly killAt: number | null;
  /** The sandbox's VMM is killed with it */
  readonly alsoVmm: boolean;
  /** Gets the names of all steps, as JSON, when `killAt` is null */
  readonly stepsFile: string;
}

/**
 * Has a process do the operation until it is killed, then `look` at what it left. Returns the names of the operation's steps when `killAt` is null. The
 * folder is removed unless something fails.
 */
export async function runCrash(
  parts: Pick<CrashOrder, "driver" | "operation" | "killAt" | "alsoVmm">,
  look: (order: CrashOrder) => Promise<void>,
): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), "roost-crash-"));
  const stepsFile = `${folder}.steps.json`;
  const order: CrashOrder = { ...parts, folder, sandboxId: newSandboxId(), children: [newSandboxId(), newSandboxId()], stepsFile };
  const child = spawn(
    process.execPath,
    ["--conditions=@roost/source", "--import", "tsx", join(import.meta.dirname, "crash-child.ts"), JSON.stringify(order)],
    { stdio: ["ignore", "inherit", "inherit"] },
  );
  const [code, signal] = (await once(child, "exit")) as [number | null, string | null];
  expect({ code, signal }, "the child ends by its own kill -9").toEqual({ code: null, signal: "SIGKILL" });
  await look(order);
  const steps = parts.killAt === null ? (JSON.parse(await readFile(stepsFile, "utf8")) as string[]) : [];
  await rm(stepsFile, { force: true });
  await rm(folder, { recursive: true, force: true });
  return steps;
}
