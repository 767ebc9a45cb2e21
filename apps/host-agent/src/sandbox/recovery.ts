import { rm } from "node:fs/promises";

import { PlatformError } from "@roost/contract";
import { assert, unreachable, type Logger } from "@roost/kit";

import type { Generation } from "../memory/image-folder.ts";
import type { Slot } from "../network/network.ts";
import { isRunning, type Vm, type VmExit } from "../vmm/driver.ts";
import type { SandboxContext } from "./context.ts";
import type { SandboxManager } from "./sandbox-manager.ts";
import { lostVmNotice } from "./lost-vm.ts";
import { pausedAt } from "./paused-at.ts";
import { noVm, type SandboxRecord } from "./sandbox-record.ts";
import { describeExit } from "./start-vm.ts";

export interface RecoveryOptions {
  readonly context: SandboxContext;
  readonly manager: SandboxManager;
  /** Removes what no record owns: VMM processes and cgroups. Gets the records of the sandboxes whose VMs live. */
  readonly sweep: (adopted: readonly SandboxRecord[]) => Promise<void>;
  readonly log: Logger;
}

interface Found {
  readonly record: SandboxRecord;
  readonly adopted: { readonly vm: Vm; readonly slot: Slot } | undefined;
}

/**
 * What a host agent does before it accepts work: takes over what an earlier one left.
 *
 * First every image folder is brought to its old or its new generation, and every record is judged (adopt what lives, go back to the last
 * generation of what died, undo half-made creates and resumes, finish half-done pauses and stops). Only then is removed what no
 * record owns. An orderly end and a crash need the same recovery.
 */
export async function recover(options: RecoveryOptions): Promise<void> {
  const { context, manager, log } = options;
  const records = await context.store.load();
  const judged: { record: SandboxRecord; vm: Vm | VmExit | undefined }[] = [];
  for (const record of records) judged.push(await judge(record, context, log));

  const inUse = judged.flatMap(({ record, vm }) =>
    isAdopted(vm) && record.slot !== null ? [{ index: record.slot, policy: record.spec.network }] : [],
  );
  await context.network.start(inUse);

  const found: Found[] = [];
  for (const { record, vm } of judged) {
    const adopted = isAdopted(vm) ? await heldToPolicy(record, vm, context, log) : undefined;
    if (adopted !== undefined) {
      found.push({ record: await continued(record, adopted.vm, context), adopted });
      continue;
    }
    const settled = await settle(record, isAdopted(vm) ? undefined : vm, context);
    if (settled !== undefined) found.push({ record: settled, adopted: undefined });
  }
  await options.sweep(found.flatMap(({ record, adopted }) => (adopted === undefined ? [] : [record])));

  for (const { record, adopted } of found) manager.restore(record, adopted);
  context.events.catchUp(found.map(({ record }) => record));
  const count = found.filter(({ adopted }) => adopted !== undefined).length;
  if (records.length > 0) log.info({ records: records.length, adopted: count }, "took over the sandboxes of an earlier host agent");
}

function isAdopted(vm: Vm | VmExit | undefined): vm is Vm {
  return vm !== undefined && isRunning(vm);
}

/** States in which a VM may live that goes on being this sandbox's. In all others its end was decided. */
const adoptable: ReadonlySet<SandboxRecord["state"]> = new Set(["running", "pausing", "snapshotting"]);

/** A record with its image folder made whole, and its VM: alive, or how it ended. */
async function judge(
  found: SandboxRecord,
  context: SandboxContext,
  log: Logger,
): Promise<{ record: SandboxRecord; vm: Vm | VmExit | undefined }> {
  const record = await withImages(found, context, log);
  if (record.vm === null) return { record, vm: undefined };
  // A pause is complete with its commit: the VM that is still there has nothing to tell any more
  if (adoptable.has(record.state) && !isPauseCommitted(found, record) && record.slot !== null) {
    try {
      return { record, vm: await context.driver.adopt(record.vm) };
    } catch (error) {
      log.warn({ err: error, sandboxId: record.spec.sandboxId }, "a VM runs but does not answer; it is ended");
      await context.driver.destroy(record.vm);
      return { record, vm: { exitCode: null, signal: null, consoleTail: [] } };
    }
  }
  await context.driver.destroy(record.vm);
  if (!isPauseCommitted(found, record)) return { record, vm: undefined };
  return { record: { ...record, state: "paused", timePausedMs: Date.now() }, vm: undefined };
}

/** The record as its image folder says, which may be newer: a commit comes before the record hears of it. */
async function withImages(record: SandboxRecord, context: SandboxContext, log: Logger): Promise<SandboxRecord> {
  const { sandboxId } = record.spec;
  if (record.state === "stopped" || record.state === "creating" || (record.state === "stopping" && record.stopReason === "deleted"))
    return record;
  const images = context.store.images(sandboxId);
  const report = await images.recover();
  if (report.rolledForward !== null || report.rolledBack.length > 0 || report.damaged.length > 0)
    log.warn({ sandboxId, ...report }, "recovered memory images");
  try {
    const generation: Generation | null = await images.current();
    return generation === null ? record : { ...record, ...pausedAt(generation) };
  } catch (error) {
    log.error({ err: error, sandboxId }, "a sandbox's current generation is damaged");
    return { ...record, notice: "its saved memory is damaged: roll it back to another generation, or resume it with memory=false" };
  }
}

function isPauseCommitted(before: SandboxRecord, after: SandboxRecord): boolean {
  return before.state === "pausing" && after.currentGeneration !== before.currentGeneration;
}

/**
 * A VM that lives, with its slot under the rules of this host agent and its own policy: those in the kernel may be of another version, or of a change that was not
 * written down. One that cannot be held to its policy is ended.
 */
async function heldToPolicy(record: SandboxRecord, vm: Vm, context: SandboxContext, log: Logger): Promise<Found["adopted"]> {
  assert(record.slot !== null && record.vm !== null, "a running sandbox has a slot and a VM");
  const slot = context.network.slot(record.slot);
  try {
    await context.network.setEgress(slot, record.spec.network);
    return { vm, slot };
  } catch (error) {
    log.error({ err: error, sandboxId: record.spec.sandboxId }, "a VM runs, but its network policy cannot be put in force; it is ended");
    await context.driver.destroy(record.vm);
    await context.network.release(slot);
    return undefined;
  }
}

/** A VM that lives belongs to a sandbox that runs: what was half done with it is undone. */
async function continued(record: SandboxRecord, vm: Vm, context: SandboxContext): Promise<SandboxRecord> {
  await vm.continue(); // it may have been stopped to be saved
  const layers = await vm.layers();
  const hasChanged = record.state !== "running" || layers.join() !== record.layers.join();
  if (!hasChanged) return record;
  const next: SandboxRecord = { ...record, state: "running", layers, revision: record.revision + 1 };
  await context.store.write(next);
  return next;
}

/** What becomes of a record without a living VM; undefined when it is forgotten. */
async function settle(record: SandboxRecord, exit: VmExit | undefined, context: SandboxContext): Promise<SandboxRecord | undefined> {
  const { sandboxId } = record.spec;
  if (record.state === "stopped") return record;
  if (record.state === "stopping" && record.stopReason === "deleted") {
    await context.store.remove(sandboxId); // whoever deleted it was told nothing, or asks again and is told that it is gone
    return undefined;
  }
  await rm(context.store.vmFolder(sandboxId), { recursive: true, force: true });
  const next = nextRecord(record, exit);
  await context.store.write(next);
  if (next.state === "stopped" || record.state === "creating") await context.store.removeImages(sandboxId);
  return next;
}

function nextRecord(record: SandboxRecord, exit: VmExit | undefined): SandboxRecord {
  const nowMs = Date.now();
  const without = { ...record, ...noVm };
  const ended = { ...without, timeEndedMs: record.timeEndedMs ?? nowMs, revision: record.revision + 1 };
  switch (record.state) {
    // Seen by users as before: only what it held is gone
    case "failed":
    case "paused":
      return without;
    case "stopping":
      return { ...ended, state: "stopped", currentGeneration: null, hasMemory: false, hasOwnGeneration: false, layers: [] };
    case "creating":
      return { ...ended, state: "failed", failureReason: "the host agent ended while the sandbox was being created" };
    case "resuming":
      return record.failureReason === null ? { ...without, state: "paused", revision: record.revision + 1 } : { ...ended, state: "failed" };
    case "snapshotting":
      if (record.timePausedMs !== null) return { ...without, state: "paused", revision: record.revision + 1 };
      return lostVm(record, exit);
    case "running":
    case "pausing":
      return lostVm(record, exit);
    case "stopped":
      throw new PlatformError("internal", "a stopped sandbox needs nothing");
    default:
      return unreachable(record.state);
  }
}

/** Its VM ended while nobody watched. */
function lostVm(record: SandboxRecord, exit: VmExit | undefined): SandboxRecord {
  const nowMs = Date.now();
  const without = { ...record, ...noVm, revision: record.revision + 1 };
  const how = exit === undefined ? "nobody saw how" : describeExit(exit);
  const failureReason = `the VM ended while the host agent was away: ${how}`;
  if (!record.hasOwnGeneration) return { ...without, timeEndedMs: nowMs, state: "failed", failureReason, vmExit: exit ?? null };
  return {
    ...without,
    state: "paused",
    vmExit: exit ?? null,
    timePausedMs: nowMs,
    notice: lostVmNotice(failureReason, record.currentGeneration),
  };
}
