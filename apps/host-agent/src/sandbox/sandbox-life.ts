import { rm } from "node:fs/promises";

import { advance, decide, PlatformError, type SandboxState } from "@roost/contract";
import { assert, must, type Logger } from "@roost/kit";

import type { Generation, GenerationKind, ImageFolder } from "../memory/image-folder.ts";
import { bootSource } from "./boot-source.ts";
import { captureGeneration, type Captured } from "./capture.ts";
import type { LifeStep, SandboxContext } from "./context.ts";
import { pausedAt } from "./paused-at.ts";
import { presentLayers } from "./present-layers.ts";
import { describeMismatch, whyNotRestorable } from "./restorable.ts";
import { introduceAgain, prepareGuest } from "./prepare-guest.ts";
import type { RecordKeeper } from "./record-keeper.ts";
import { asPlatformError, failureCode, failureText, type FailureCode } from "./life-failures.ts";
import { lostVmNotice } from "./lost-vm.ts";
import { RunningVm } from "./running-vm.ts";
import { noVm, type SandboxRecord, type StartPath } from "./sandbox-record.ts";
import { savedDisk, startVm, type StartedVm, type StartSource } from "./start-vm.ts";
import { Upkeep } from "./upkeep.ts";
import { wrongState } from "./wrong-state.ts";

export interface LifeParts {
  readonly keeper: RecordKeeper;
  readonly context: SandboxContext;
  readonly images: ImageFolder;
  readonly log: Logger;
  /** Posts to the sandbox's loop */
  readonly onVmExited: (running: RunningVm) => void;
  readonly onInactive: () => void;
  readonly onCheckpointDue: () => void;
}

/**
 * What is done to one sandbox: its VM, its generations, its record. Called by the sandbox's loop, one at a time; each method leaves the
 * record in a state that recovery understands wherever it is interrupted.
 */
export class SandboxLife {
  readonly #parts: LifeParts;
  readonly #upkeep: Upkeep;
  #running: RunningVm | undefined;
  #startAbort: AbortController | undefined;

  constructor(parts: LifeParts) {
    this.#parts = parts;
    this.#upkeep = new Upkeep({
      images: parts.images,
      policy: parts.context.policy,
      disks: parts.context.disks,
      inUse: () => {
        const { layers, baseMemory } = parts.keeper.current;
        return { layers, bases: baseMemory === null ? [] : [baseMemory] };
      },
      keepLayers: (layers) => parts.keeper.save({ layers: [...layers] }, { visible: false }),
      onStep: (step) => this.#step(step),
      log: parts.log,
    });
  }

  get record(): SandboxRecord {
    return this.#parts.keeper.current;
  }

  get running(): RunningVm | undefined {
    return this.#running;
  }

  // A VM comes

  attach(started: Pick<StartedVm, "vm" | "slot">, options: { readonly graceMs?: number } = {}): void {
    const { context, keeper, log } = this.#parts;
    const running = new RunningVm({
      vm: started.vm,
      slot: started.slot,
      spec: () => keeper.current.spec,
      context,
      timeLastActiveMs: options.graceMs === undefined ? Date.now() : keeper.current.timeLastActiveMs,
      ...options,
      onInactive: this.#parts.onInactive,
      onCheckpointDue: this.#parts.onCheckpointDue,
      log,
    });
    this.#running = running;
    void started.vm.exited.then(() => this.#parts.onVmExited(running));
  }

  /** The record of a VM that runs and answered. */
  async saveStarted(started: StartedVm, startPath: StartPath, visible: Partial<SandboxRecord> = {}): Promise<void> {
    const { keeper } = this.#parts;
    const nowMs = Date.now();
    await keeper.save({
      state: must(advance(keeper.current.state, { kind: "completed" }), "a state after a start"),
      slot: started.slot.index,
      vm: started.vm.record,
      layers: [...started.layers],
      machine: started.machine,
      baseMemory: started.baseMemory,
      versions: started.versions,
      startPath,
      timeStartedMs: nowMs,
      timeLastActiveMs: nowMs,
      timePausedMs: null,
      failureReason: null,
      vmExit: null,
      stopReason: null,
      notice: null,
      ...visible,
    });
  }

  /** Saves the sandbox to a generation and ends its VM. If it could not be saved it runs on, and this rejects. */
  async pause(options: { readonly memory: boolean }): Promise<Captured | undefined> {
    const { keeper, context } = this.#parts;
    const decision = decide(keeper.current.state, { kind: "pause" });
    if (decision.kind === "ignore") return undefined;
    if (decision.kind === "deny") throw wrongState(keeper.current.state, decision.reason);
    const running = must(this.#running, "a running sandbox has a VM");
    if (!options.memory) await running.logs.finish(); // memory keeps what the guest has not told yet, and asking would be a third of a pause
    await this.#upkeep.end();
    await keeper.save({ state: decision.next });
    await running.drainPorts(context.times.pauseDrainMs);
    let captured: Captured;
    try {
      if (!options.memory) await running.client.prepare({ sync: true }, running.signal);
      await this.#step("pause:recorded");
      captured = await this.#capture("pause", { memory: options.memory, live: false });
    } catch (error) {
      throw await this.#undo(running, "sandbox_pause_failed", "the sandbox could not be paused, so it runs on", error);
    }
    // Committed: from here on it is paused, whatever happens
    await this.#endSavedVm(running, captured.generation.number);
    await keeper.saveAnyway({
      ...pausedAt(captured.generation),
      state: must(advance("pausing", { kind: "completed" }), "a state after pausing"),
      ...noVm,
      timePausedMs: Date.now(),
      notice: null,
    });
    context.capacity.release(keeper.current.spec.sandboxId);
    this.#upkeep.begin();
    return captured;
  }

  // Generations of a running or paused sandbox

  /**
   * A new generation while the sandbox runs on. `use` gets it before anything else can happen to the sandbox, for forks and snapshots. `forBuild`: the
   * guest is first made ready for being started from many times.
   */
  async capture(
    kind: "checkpoint" | "fork" | "snapshot",
    options: { readonly memory: boolean; readonly forBuild?: boolean; readonly use?: (generation: Generation) => Promise<void> },
  ): Promise<Captured> {
    const { keeper, log } = this.#parts;
    const { forBuild = false } = options;
    const from = keeper.current.state;
    const decision = decide(from, { kind });
    if (decision.kind !== "accept") throw wrongState(from, decision.kind === "deny" ? decision.reason : "change-in-progress");
    assert(from === "running" || from === "paused", "a sandbox is captured where it runs or is paused");
    await this.#upkeep.end({ forCapture: true });
    await keeper.save({ state: decision.next });
    const running = this.#running;
    let captured: Captured | undefined;
    try {
      if (from === "running") await prepareGuest(must(running, "a running sandbox has a VM"), { memory: options.memory, forBuild }, log);
      captured =
        from === "running"
          ? await this.#capture(kind, { memory: options.memory, live: true })
          : { generation: await this.#current(), stoppedMs: undefined };
      await this.#step("capture:committed");
      await options.use?.(captured.generation);
    } catch (error) {
      if (captured !== undefined) await keeper.saveAnyway(pausedAt(captured.generation), { visible: false }); // that much was done
      if (from === "running")
        throw await this.#undo(must(running, "a running sandbox has a VM"), failureCode[kind], failureText[kind], error);
      await keeper.saveAnyway({ state: must(advance("snapshotting", { kind: "snapshot-ended", from }), "a state after a capture") });
      throw asPlatformError(failureCode[kind], failureText[kind], error);
    } finally {
      if (forBuild && this.#running !== undefined) await introduceAgain(this.#running, keeper.current.spec, log);
    }
    await keeper.saveAnyway({
      ...pausedAt(captured.generation),
      state: must(advance("snapshotting", { kind: "snapshot-ended", from }), "a state after a capture"),
    });
    this.#upkeep.begin(running?.vm);
    return captured;
  }

  /** Resolves when nothing is done to its images in the background any more; until its next change nothing is. */
  async endUpkeep(): Promise<void> {
    await this.#upkeep.end();
  }

  async generations(): Promise<Generation[]> {
    return (await this.#parts.images.list()).filter((generation): generation is Generation => "manifest" in generation);
  }

  // A paused sandbox runs again

  /** Brings a paused sandbox back: with its memory, or booted from its disk. False when it runs already. If it could not, it stays as it was and this rejects. */
  async resume(options: { readonly memory: boolean }): Promise<boolean> {
    const { keeper } = this.#parts;
    const from = keeper.current.state;
    const decision = decide(from, { kind: "resume", memory: options.memory });
    if (decision.kind === "ignore") return false;
    if (decision.kind === "deny") throw wrongState(from, decision.reason);
    await this.#upkeep.end();
    const { source, startPath } = await this.#resumeSource(options.memory);
    await this.#start(source, startPath, { to: from === "failed" ? "failed" : "paused" });
    return true;
  }

  /** Goes back to a kept generation: what came after it is given up. */
  async rollBack(number: number): Promise<void> {
    const { keeper, images } = this.#parts;
    const from = keeper.current.state;
    const decision = decide(from, { kind: "rollback" });
    if (decision.kind !== "accept") throw wrongState(from, decision.kind === "deny" ? decision.reason : "change-in-progress");
    await this.#upkeep.end();
    const generation = await images.get(number);
    if (generation.manifest.memory !== null) await this.#checkRestorable(generation);
    await images.verify(generation, { deep: false });
    // From here on it goes forward: the generation is whole, and a crash finds it as the current one
    await images.setCurrent(number);
    try {
      await this.#step("rollback:current-set");
      await keeper.saveAnyway({ ...pausedAt(generation), state: decision.next, layers: [...savedDisk(generation).layers] });
      await this.#step("rollback:recorded");
      if (this.#running !== undefined) {
        await this.#running.logs.finish();
        this.#running.end(new PlatformError("sandbox_wrong_state", "the sandbox was rolled back to an earlier generation"));
        await this.#endVm();
        await this.#step("rollback:vm-ended");
      }
      await keeper.saveAnyway(noVm, { visible: false });
      const source = await this.#sourceOf(generation);
      await this.#start(source, source.kind, { to: "paused", isBegun: true });
    } catch (error) {
      if (this.#running === undefined) this.#parts.context.capacity.release(keeper.current.spec.sandboxId);
      if (keeper.current.state === decision.next) await this.#fallBack(error);
      else if (keeper.current.state === from) await keeper.saveAnyway(pausedAt(generation), { visible: false });
      throw asPlatformError("sandbox_resume_failed", `the sandbox is at generation ${number}, but could not be started; resume it`, error);
    }
  }

  /** After a rollback that failed half-way: paused at the generation, unless even its VM could not be ended. */
  async #fallBack(error: unknown): Promise<void> {
    const { keeper, context } = this.#parts;
    const to = this.#running === undefined ? "paused" : "failed";
    const nowMs = Date.now();
    await keeper.saveAnyway({
      state: must(advance("resuming", { kind: "rolled-back", to }), "a state to go back to"),
      ...(to === "paused"
        ? { ...noVm, timePausedMs: nowMs }
        : { failureReason: `its VM could not be ended: ${String(error)}`, timeEndedMs: nowMs }),
    });
    if (to === "paused") context.capacity.release(keeper.current.spec.sandboxId);
  }

  // The VM goes

  /** Its VM ended by itself: it is back at its last generation, if it has one of its own. */
  async onVmLost(failureReason: string, exit: SandboxRecord["vmExit"]): Promise<SandboxState | undefined> {
    const { keeper, context, images } = this.#parts;
    // It may have ended after a commit of which the record had not heard yet
    const generation = await images.current().catch(() => null);
    if (generation !== null) keeper.apply(pausedAt(generation), { visible: false });
    const { hasOwnGeneration, currentGeneration } = keeper.current;
    const next = advance(keeper.current.state, { kind: "vm-lost", hasGeneration: hasOwnGeneration });
    if (next === undefined) return undefined;
    await this.#upkeep.end();
    await keeper.saveAnyway({
      state: next,
      vmExit: exit,
      ...(next === "failed"
        ? { failureReason, timeEndedMs: Date.now() }
        : {
            timePausedMs: Date.now(),
            notice: lostVmNotice(failureReason, currentGeneration),
          }),
    });
    await this.tearDown(next);
    await keeper.saveAnyway(noVm, { visible: false });
    context.events.emit("sandbox.vm_lost", { sandboxId: keeper.current.spec.sandboxId, message: failureReason, detail: { state: next } });
    return next;
  }

  /** Ends the VM and gives back what it held; the disk and the generations stay. Repeatable after a failure. */
  async tearDown(why: string): Promise<void> {
    const { keeper, context } = this.#parts;
    const running = this.#running;
    try {
      await this.#upkeep.end();
      if (running !== undefined) {
        running.end(new PlatformError("guest_unreachable", "the sandbox was stopped"));
        await this.#endVm();
      } else if (keeper.current.vm !== null) {
        await context.driver.destroy(keeper.current.vm);
        await this.#removeVmFiles();
      }
    } catch (error) {
      throw new PlatformError("internal", "the sandbox could not be ended completely; delete it again", {
        detail: `${why}: ${String(error)}`,
        cause: error,
      });
    }
    context.capacity.release(keeper.current.spec.sandboxId);
  }

  /** A start that is under way fails as soon as it can. */
  abortStart(reason: Error): void {
    this.#startAbort?.abort(reason);
  }

  /** The VM runs on, for the next host agent. */
  async release(reason: Error): Promise<void> {
    await this.#upkeep.end();
    this.#running?.end(reason);
    this.#running?.vm.release();
  }

  // Steps

  async #step(step: LifeStep): Promise<void> {
    await this.#parts.context.onStep?.(step, this.#parts.keeper.current.spec.sandboxId);
  }

  async #capture(kind: GenerationKind, options: { readonly memory: boolean; readonly live: boolean }): Promise<Captured> {
    const { keeper, context, images, log } = this.#parts;
    const { spec, versions, layers, baseMemory, disk, machine } = keeper.current;
    const running = must(this.#running, "what is captured runs");
    assert(disk !== null && machine !== null, "a sandbox that runs has a disk");
    return captureGeneration({
      vm: running.vm,
      images,
      disks: context.disks,
      kind,
      sandboxId: spec.sandboxId,
      machine,
      versions,
      baseMemory: options.memory ? must(baseMemory ?? undefined, "a VM's memory begins as a file") : null,
      disk: { base: disk.base, baseDigest: disk.baseDigest, sizeMib: disk.sizeMib, layers },
      live: options.live ? { uid: running.slot.uid, keepLayers: (next) => keeper.save({ layers: [...next] }, { visible: false }) } : null,
      onStep: (step) => this.#step(step),
      log,
    });
  }

  /** After a failed pause or capture of a running sandbox: it runs on, unless its VM is gone. */
  async #undo(running: RunningVm, code: FailureCode, text: string, error: unknown): Promise<PlatformError> {
    const { keeper, log } = this.#parts;
    const state = keeper.current.state;
    log.warn({ err: error }, text);
    const goesOn = await running.vm.continue().then(
      () => true,
      () => false,
    );
    if (goesOn) {
      const next =
        state === "pausing" ? advance(state, { kind: "rolled-back" }) : advance(state, { kind: "snapshot-ended", from: "running" });
      await keeper.saveAnyway({ state: must(next, "a state to go on in") });
    } else {
      void running.vm.kill(); // it stands still or is gone: the loop hears of its end next, in the state it is in
    }
    return asPlatformError(code, text, error);
  }

  async #resumeSource(memory: boolean): Promise<{ source: StartSource; startPath: StartPath }> {
    const { keeper, images } = this.#parts;
    const generation = keeper.current.currentGeneration === null ? null : await images.current();
    if (!memory || generation === null || generation.manifest.memory === null) {
      // The newest disk: after a lost VM that is more than its last generation has
      return { source: await this.#bootSource(keeper.current.layers), startPath: "boot" };
    }
    await this.#checkRestorable(generation);
    await images.verify(generation, { deep: false });
    return { source: { kind: "restore", generation }, startPath: "restore" };
  }

  async #sourceOf(generation: Generation): Promise<StartSource> {
    return generation.manifest.memory === null ? this.#bootSource(savedDisk(generation).layers) : { kind: "restore", generation };
  }

  async #bootSource(layers: readonly string[]): Promise<StartSource> {
    const { keeper, context } = this.#parts;
    const { disk } = keeper.current;
    if (disk === null) throw new PlatformError("sandbox_wrong_state", "the sandbox never ran, so there is nothing to resume; delete it");
    const present = await presentLayers(this.#parts.images, layers);
    return bootSource(context, keeper.current.spec, { ...disk, layers: present });
  }

  async #checkRestorable(generation: Generation): Promise<void> {
    const { keeper, context } = this.#parts;
    const why = await whyNotRestorable(generation.manifest, context);
    if (why === undefined) return;
    const text = describeMismatch(why);
    await keeper.saveAnyway({ notice: text });
    throw new PlatformError("image_incompatible", text);
  }

  /** From `resuming` (or into it) to `running`, or back to `to`. */
  async #start(
    source: StartSource,
    startPath: StartPath,
    options: { readonly to: "paused" | "failed"; readonly isBegun?: boolean },
  ): Promise<void> {
    const { keeper, context, images, log } = this.#parts;
    const { spec } = keeper.current;
    const layersBefore = keeper.current.layers;
    if (this.#running !== undefined || keeper.current.vm !== null) await this.tearDown("a VM that could not be ended before");
    if (options.isBegun !== true) await context.checkRoom(spec.memoryMib);
    const abort = new AbortController();
    this.#startAbort = abort;
    try {
      await context.capacity.reserveSoon(spec.sandboxId, spec.memoryMib, abort.signal);
      if (options.isBegun !== true) await keeper.save({ state: "resuming" });
      await this.#step("resume:recorded");
      await this.#freezeLayers();
      const started = await startVm({
        spec,
        context,
        source,
        images,
        vmFolder: context.store.vmFolder(spec.sandboxId),
        keep: async (traces) => keeper.save({ ...traces, layers: [...traces.layers] }, { visible: false }),
        introduce: (client, signal) => client.init(spec, signal),
        accessToken: spec.accessToken,
        log,
        signal: abort.signal,
      });
      this.attach(started);
      await this.saveStarted(started, startPath, { timeEndedMs: null });
      this.#upkeep.begin(started.vm);
    } catch (error) {
      log.warn({ err: error }, "the sandbox could not be resumed; it stays as it was");
      if (this.#running !== undefined) await this.#endVm();
      context.capacity.release(spec.sandboxId);
      const record = keeper.current;
      if (record.state === "resuming") {
        await keeper.saveAnyway({
          state: must(advance("resuming", { kind: "rolled-back", to: options.to }), "a state to go back to"),
          ...noVm,
          layers: layersBefore,
          ...(options.to === "failed" ? { failureReason: record.failureReason ?? "the sandbox could not be resumed" } : {}),
        });
      }
      throw asPlatformError("sandbox_resume_failed", "the sandbox could not be resumed; it stays as it was, try again", error);
    } finally {
      this.#startAbort = undefined;
    }
  }

  /** `slotLater`: its slot is given back in the background. If that fails its number is not lent again, which is logged there. */
  async #endVm(options: { readonly slotLater?: boolean } = {}): Promise<void> {
    const { context } = this.#parts;
    const running = must(this.#running, "a VM to end");
    await running.vm.kill();
    // A slot whose VMM still lives must not go to another sandbox
    const released = context.network.release(running.slot);
    if (options.slotLater === true) released.catch(() => undefined);
    else await released;
    await this.#removeVmFiles();
    this.#running = undefined;
  }

  /** Ends the VM of a sandbox that was saved. If it cannot be ended the sandbox has failed: a second VM must not come beside it. */
  async #endSavedVm(running: RunningVm, generation: number): Promise<void> {
    const { keeper, log } = this.#parts;
    try {
      await this.#step("capture:committed");
      running.end(new PlatformError("sandbox_wrong_state", "the sandbox was paused"));
      await this.#endVm({ slotLater: true });
      await this.#step("pause:vm-ended");
    } catch (error) {
      log.error({ err: error }, "a sandbox was saved, but its VM made trouble as it ended");
      if (this.#running === undefined) return;
      const failureReason = `it was saved as generation ${generation}, but its VM could not be ended: ${String(error)}`;
      await keeper.saveAnyway({ state: "failed", failureReason, timeEndedMs: Date.now() });
      throw new PlatformError("sandbox_pause_failed", failureReason, { cause: error });
    }
  }

  async #removeVmFiles(): Promise<void> {
    await rm(this.#parts.context.store.vmFolder(this.#parts.keeper.current.spec.sandboxId), { recursive: true, force: true });
  }

  async #freezeLayers(): Promise<void> {
    const { keeper, context, images } = this.#parts;
    for (const layer of await presentLayers(images, keeper.current.layers)) await context.disks.freezeLayer(images.layerPath(layer));
  }

  async #current(): Promise<Generation> {
    return must((await this.#parts.images.current()) ?? undefined, "a paused sandbox has a generation");
  }
}
