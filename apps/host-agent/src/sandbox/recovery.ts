import { decide } from "@roost/contract";
import { assert, type Logger } from "@roost/kit";

import { isRunning, type VmExit } from "../vmm/driver.ts";
import type { SandboxContext } from "./context.ts";
import type { SandboxManager } from "./sandbox-manager.ts";
import type { SandboxRecord } from "./sandbox-record.ts";
import { describeExit, type StartedVm } from "./start-vm.ts";

export interface RecoveryOptions {
  readonly context: SandboxContext;
  readonly manager: SandboxManager;
  /** Removes what no record owns: VMM processes and cgroups. Gets the ids of the sandboxes whose VMs live. */
  readonly sweep: (adopted: readonly SandboxRecord[]) => Promise<void>;
  readonly log: Logger;
}

interface Found {
  readonly record: SandboxRecord;
  readonly adopted: StartedVm | undefined;
}

/**
 * What a host agent does before it accepts work: takes over what an earlier one left.
 *
 * First every record is judged (adopt what lives, tell what died, undo half-made creates, finish half-done stops), and only
 * then is removed what no record owns. An orderly end and a crash need the same recovery.
 */
export async function recover(options: RecoveryOptions): Promise<void> {
  const { context, manager, log } = options;
  const records = await context.store.load();
  const judged: { record: SandboxRecord; vm: Awaited<ReturnType<typeof judge>> }[] = [];
  for (const record of records) judged.push({ record, vm: await judge(record, context, log) });

  const inUse = judged.flatMap(({ record, vm }) => (isAdopted(vm) && record.slot !== null ? [record.slot] : []));
  await context.network.start(inUse);

  const found: Found[] = [];
  for (const { record, vm } of judged) {
    if (isAdopted(vm)) {
      assert(record.slot !== null, "a running sandbox has a slot");
      found.push({ record, adopted: { vm, slot: context.network.slot(record.slot), versions: record.versions } });
      continue;
    }
    const settled = await settle(record, vm, context);
    if (settled !== undefined) found.push({ record: settled, adopted: undefined });
  }
  await options.sweep(found.flatMap(({ record, adopted }) => (adopted === undefined ? [] : [record])));

  for (const { record, adopted } of found) manager.restore(record, adopted);
  const count = found.filter(({ adopted }) => adopted !== undefined).length;
  if (records.length > 0) log.info({ records: records.length, adopted: count }, "took over the sandboxes of an earlier host agent");
}

function isAdopted(vm: Awaited<ReturnType<typeof judge>>): vm is Extract<typeof vm, { readonly exited: unknown }> {
  return vm !== undefined && isRunning(vm);
}

/** The VM of a running sandbox, alive or how it ended. VMs of all others are ended: nothing of them is to stay. */
async function judge(record: SandboxRecord, context: SandboxContext, log: Logger) {
  if (record.vm === null) return undefined;
  if (record.state === "running" && record.slot !== null) {
    try {
      return await context.driver.adopt(record.vm);
    } catch (error) {
      log.warn({ err: error, sandboxId: record.spec.sandboxId }, "a VM runs but does not answer; it is ended");
      await context.driver.destroy(record.vm);
      return { exitCode: null, signal: null, consoleTail: [] } satisfies VmExit;
    }
  }
  await context.driver.destroy(record.vm);
  return undefined;
}

/** What becomes of a record without a living VM; undefined when it is forgotten. */
async function settle(record: SandboxRecord, exit: VmExit | undefined, context: SandboxContext): Promise<SandboxRecord | undefined> {
  const { sandboxId } = record.spec;
  if (record.state === "stopped") return record;
  if (record.state === "stopping" && record.stopReason === "deleted") {
    await context.store.remove(sandboxId); // whoever deleted it was told nothing, or asks again and is told that it is gone
    return undefined;
  }
  await context.store.removeVmFiles(sandboxId);
  const ended = { slot: null, vm: null, timeEndedMs: record.timeEndedMs ?? Date.now(), generation: record.generation + 1 };
  const next: SandboxRecord = nextRecord(record, exit, ended);
  if (record.state !== "failed" || record.vm !== null || record.slot !== null) await context.store.write(next);
  return next;
}

function nextRecord(record: SandboxRecord, exit: VmExit | undefined, ended: Partial<SandboxRecord>): SandboxRecord {
  // Seen by users as before: only what it held is gone
  if (record.state === "failed") return { ...record, slot: null, vm: null };
  if (record.state === "stopping") return { ...record, ...ended, state: "stopped" };
  if (record.state === "creating") {
    return { ...record, ...ended, state: "failed", failureReason: "the host agent ended while the sandbox was being created" };
  }
  assert(decide(record.state, { kind: "stop" }).kind === "accept", "what has not ended can be stopped");
  const how = exit === undefined ? "nobody saw how" : describeExit(exit);
  return {
    ...record,
    ...ended,
    state: "failed",
    failureReason: `the VM ended while the host agent was away: ${how}`,
    vmExit: exit ?? null,
  };
}
