import type { Duplex } from "node:stream";

import { advance, decide, PlatformError, type EgressPolicy, type EventKind, type SandboxState } from "@roost/contract";
import { assert, Deferred, Mailbox, must, unreachable, type Logger } from "@roost/kit";

import type { Generation } from "../memory/image-folder.ts";
import { SandboxMetrics } from "../metrics/sandbox-metrics.ts";
import { admit, type Admission, type BasedOn, type ResumeOptions } from "./admit.ts";
import { Backoff } from "./backoff.ts";
import { captureDetail, type Captured } from "./capture.ts";
import type { SandboxContext } from "./context.ts";
import { beginCreate, type CreatedVm, type CreateInFlight, type StartCall } from "./create-in-flight.ts";
import type { Message } from "./message.ts";
import { RecordKeeper } from "./record-keeper.ts";
import type { RunningVm } from "./running-vm.ts";
import type { TransitParts } from "../move/transit.ts";
import { SandboxLife } from "./sandbox-life.ts";
import { noVm, shownTemplate, type SandboxRecord, type StopReason } from "./sandbox-record.ts";
import { changeNetwork, changeTimeoutSec, type SpecChangeParts } from "./spec-changes.ts";
import { asStartFailure, describeExit, type StartFailure, type StartedVm } from "./start-vm.ts";
import { goneError, wrongState } from "./wrong-state.ts";

/** Requests that may wait for one sandbox; above it `sandbox_busy`. */
export const requestsWaitingMax = 32;
/** Places kept free for what the sandbox itself posts: a create's end, a VM's end, timers. */
const internalMessagesMax = 8;
/** Wait before a pause for inactivity that failed is tried again in `ms`; doubles up to the maximum. */
const pauseRetryMs = { first: 15_000, max: 15 * 60_000 };

/**
 * One sandbox of this host: its record, and the one loop that changes it.
 *
 * Everybody else (RPC handlers, timers, the watcher of the VM's end) posts to a bounded mailbox. The loop takes one message after the other and asks the contract's `decide` and `advance` what it means;
 * `SandboxLife` does it. A create runs beside the loop, so that a stop can abort it; the stop then waits for its rollback. States are durable before anyone is told of them.
 */
export class Sandbox {
  readonly id: string;
  readonly metrics: SandboxMetrics;
  readonly #context: SandboxContext;
  readonly #log: Logger;
  readonly #keeper: RecordKeeper;
  readonly #life: SandboxLife;
  readonly #mailbox = new Mailbox<Message>(requestsWaitingMax + internalMessagesMax);
  readonly #pauseRetry = new Backoff(pauseRetryMs);
  #requestsWaiting = 0;
  #create: CreateInFlight | undefined;
  readonly #created = new Deferred<SandboxRecord>();
  readonly #onGone: () => void;
  #isGone = false;
  #isKnown = false;
  #isCheckpointDue = false;

  constructor(options: { readonly record: SandboxRecord; readonly context: SandboxContext; readonly onGone: () => void }) {
    const { record, context } = options;
    this.id = record.spec.sandboxId;
    this.#context = context;
    this.#onGone = options.onGone;
    this.#log = context.log.child({ sandboxId: this.id });
    this.#keeper = new RecordKeeper({ record, store: context.store, watchers: context.watchers, log: this.#log });
    this.#life = new SandboxLife({
      keeper: this.#keeper,
      context,
      images: context.store.images(this.id),
      onVmExited: (running) => this.#post({ kind: "vm-exited", running }),
      onInactive: () => this.#post({ kind: "inactive" }),
      onCheckpointDue: () => this.#postCheckpointDue(),
      log: this.#log,
    });
    this.metrics = new SandboxMetrics();
    this.#created.promise.catch(() => undefined); // a create that nobody waits for may fail: its state tells
  }

  get state(): SandboxState {
    return this.#keeper.current.state;
  }

  /** Whether anyone may be told of it: its record is durable. */
  get isKnown(): boolean {
    return this.#isKnown;
  }

  /** The record, with the newest instant of activity. */
  get record(): SandboxRecord {
    const timeLastActiveMs = this.#life.running?.activity.timeLastActiveMs ?? this.#keeper.current.timeLastActiveMs;
    return { ...this.#keeper.current, timeLastActiveMs };
  }

  /** Set exactly while its guest can be used. */
  get running(): RunningVm | undefined {
    const hasVm = this.#life.running !== undefined;
    return decide(this.#keeper.current.state, { kind: "use", hasVm }).kind === "deny" ? undefined : this.#life.running;
  }

  // What starts it

  /**
   * Makes the first record durable and starts the create. Rejects when even the record could not be written. `begin` instead of
   * writing it: for a folder that comes with its record.
   */
  async begin(start: (call: StartCall) => Promise<CreatedVm>, options: { readonly isRecorded?: boolean } = {}): Promise<void> {
    assert(this.#keeper.current.state === "creating", "a create begins once");
    await this.#keeper.begin(options);
    this.#isKnown = true;
    this.#log.info({ template: this.#keeper.current.spec.template, state: "creating" }, "sandbox is creating");
    const create = beginCreate(start, async (patch) => this.#keeper.save(patch, { visible: false }));
    this.#create = create;
    void create.outcome.then(() => this.#post({ kind: "create-ended" }));
    void this.#loop();
  }

  /** After a create that did not even begin: who posted meanwhile gets an answer. */
  abandon(error: unknown): void {
    this.#isGone = true;
    this.#mailbox.close();
    this.#created.reject(error);
    void this.#loop();
  }

  /** Takes over a sandbox that an earlier host agent left, with its VM when that still runs. */
  resumeLoop(adopted?: Pick<StartedVm, "vm" | "slot">): void {
    this.#isKnown = true;
    if (adopted !== undefined) this.#life.attach(adopted, { graceMs: this.#context.times.adoptionGraceMs });
    void this.#loop();
  }

  /** Resolves with the running sandbox, when it runs; rejects when its create failed or was aborted. */
  async created(): Promise<SandboxRecord> {
    return this.#keeper.current.state === "running" ? this.record : this.#created.promise;
  }

  // What others ask

  /** Ends the sandbox; with `deleted`, forgets it too, with `moved` silently. Resolves when nothing of it is left. */
  async stop(reason: StopReason | "moved"): Promise<void> {
    const reply = new Deferred<void>();
    this.#request({ kind: "stop", reason, reply });
    this.#life.abortStart(new PlatformError("create_aborted", "the sandbox was deleted while it was being resumed"));
    return reply.promise;
  }

  /** Saves it and ends its VM. With `memory: false` only its disk is kept. Nothing to do when it is paused. */
  async pause(options: { readonly memory: boolean } & BasedOn): Promise<SandboxRecord> {
    return this.#ask(
      async () => {
        const captured = await this.#life.pause(options);
        if (captured !== undefined) this.#tell("sandbox.paused", "sandbox was paused", captureDetail(captured));
      },
      { revision: options.revision, request: { kind: "pause" } },
    );
  }

  /** Brings it back. Nothing to do when it runs. */
  async resume(options: ResumeOptions): Promise<SandboxRecord> {
    const { memory, timeoutSec, revision } = options;
    return this.#ask(
      async () => {
        const isResumed = await this.#life.resume(options);
        if (timeoutSec !== undefined) await changeTimeoutSec(this.#specChange(), timeoutSec);
        this.#life.running?.activity.touch();
        if (!isResumed) return;
        const type = options.isAutomatic === true ? "sandbox.auto_resumed" : "sandbox.resumed";
        this.#tell(type, `sandbox was resumed (${this.record.startPath})`);
      },
      timeoutSec === undefined ? { revision, request: { kind: "resume", memory } } : { revision },
    );
  }

  /** A new generation; the sandbox runs on. */
  async checkpoint(basedOn: BasedOn): Promise<{ readonly record: SandboxRecord; readonly generation: Generation }> {
    let generation: Generation | undefined;
    const record = await this.#ask(async () => {
      generation = await this.#checkpoint("sandbox was checkpointed");
    }, basedOn);
    return { record, generation: must(generation, "a checkpoint makes a generation") };
  }

  /** Goes back to a kept generation, and runs from there. */
  async rollBack(generation: number, basedOn: BasedOn): Promise<SandboxRecord> {
    return this.#ask(async () => {
      const wasRunning = this.record.state === "running";
      try {
        await this.#life.rollBack(generation);
      } catch (error) {
        const isPaused = wasRunning && this.record.state === "paused";
        if (isPaused) this.#tell("sandbox.paused", `sandbox was rolled back to generation ${generation}, and could not be started`);
        throw error;
      }
      this.#tell("sandbox.rolled_back", `sandbox was rolled back to generation ${generation}`);
    }, basedOn);
  }

  /**
   * Its present state, from running or paused, for others to start from: `use` gets it as a generation that stays until it is done. Of a
   * paused sandbox that is its current one. Resolves with what the event tells of it.
   */
  async capture(
    kind: "fork" | "snapshot",
    options: { readonly memory: boolean; readonly forBuild?: boolean; readonly use: (generation: Generation) => Promise<void> },
  ): Promise<Readonly<Record<string, string>>> {
    let captured: Captured | undefined;
    await this.#ask(async () => {
      captured = await this.#life.capture(kind, options);
    });
    return captureDetail(must(captured, "what was captured"));
  }

  /** Its kept generations, oldest first. */
  async generations(): Promise<Generation[]> {
    return this.#life.generations();
  }

  async setTimeoutSec(timeoutSec: number, basedOn: BasedOn): Promise<SandboxRecord> {
    return this.#ask(() => changeTimeoutSec(this.#specChange(), timeoutSec), basedOn);
  }

  /** What its guest may reach from now on, or from its next resume. */
  async setNetwork(network: EgressPolicy, basedOn: BasedOn): Promise<SandboxRecord> {
    if (network.proxy !== null) await this.#context.network.checkProxy(network.proxy); // not in the loop: it asks resolvers
    return this.#ask(() => changeNetwork(this.#specChange(), network), basedOn);
  }

  /** The VM is left running for the next host agent; this object is of no more use. Ends a create in flight. */
  async release(): Promise<void> {
    const reply = new Deferred<void>();
    if (this.#post({ kind: "release", reply })) await reply.promise;
  }

  /** For what moves it to another host (../move/transit.ts): `act` while nothing else happens to it. */
  async inTransit(act: (parts: TransitParts) => Promise<void>, basedOn: BasedOn = {}): Promise<SandboxRecord> {
    return this.#ask(() => act({ keeper: this.#keeper, life: this.#life }), { ...basedOn, isOfMove: true });
  }

  touch(): void {
    this.#use().activity.touch();
  }

  async connect(port: number, signal?: AbortSignal): Promise<Duplex> {
    return this.#use().tunnels.connect(port, signal);
  }

  async console(bytesMax: number): Promise<Buffer> {
    const vm = this.#life.running?.vm;
    if (vm !== undefined) return vm.console(bytesMax);
    return (await this.#context.store.readConsole(this.id)).subarray(-bytesMax);
  }

  #use(): RunningVm {
    const running = this.#life.running;
    const decision = decide(this.#keeper.current.state, { kind: "use", hasVm: running !== undefined });
    if (decision.kind === "deny") throw wrongState(this.#keeper.current.state, decision.reason);
    return must(running, "a sandbox that can be used has a VM");
  }

  // The mailbox

  /** Has the loop do something, if it is admitted then; resolves with the record afterwards. */
  async #ask(act: () => Promise<void>, admission: Admission = {}): Promise<SandboxRecord> {
    const reply = new Deferred<void>();
    this.#request({ kind: "request", act: async () => admit(this.#keeper, admission).then(act), reply });
    await reply.promise;
    return this.record;
  }

  #request(message: Extract<Message, { readonly kind: "stop" | "request" }>): void {
    if (this.#requestsWaiting >= requestsWaitingMax) {
      throw new PlatformError("sandbox_busy", "too many requests are waiting for this sandbox; try again later", { retryAfterSec: 1 });
    }
    if (!this.#post(message)) throw goneError();
    this.#requestsWaiting += 1;
  }

  /** False when the loop has ended. */
  #post(message: Message): boolean {
    return this.#mailbox.offer(message);
  }

  /** One at most waits: a long step must not fill the mailbox with them. */
  #postCheckpointDue(): void {
    if (!this.#isCheckpointDue) this.#isCheckpointDue = this.#post({ kind: "checkpoint-due" });
  }

  async #loop(): Promise<void> {
    for await (const message of this.#mailbox) {
      if ("reply" in message && message.kind !== "release") this.#requestsWaiting -= 1;
      try {
        await this.#handle(message);
      } catch (error) {
        if ("reply" in message) message.reply.reject(error);
        else this.#log.error({ err: error, message: message.kind }, "a sandbox could not act on what happened");
      }
    }
  }

  async #handle(message: Message): Promise<void> {
    if (this.#isGone) return this.#answerWhenGone(message);
    switch (message.kind) {
      case "create-ended":
        return this.#finishCreate();
      case "vm-exited":
        return this.#onVmExited(message.running);
      case "inactive":
        return this.#onInactive();
      case "checkpoint-due":
        return this.#onCheckpointDue();
      case "stop":
        await this.#stop(message.reason);
        await this.#context.events.durable();
        return message.reply.resolve();
      case "request":
        await message.act();
        await this.#context.events.durable();
        return message.reply.resolve();
      case "release":
        await this.#release();
        return message.reply.resolve();
      default:
        return unreachable(message);
    }
  }

  #answerWhenGone(message: Message): void {
    if (message.kind === "stop" || message.kind === "release") message.reply.resolve();
    else if ("reply" in message) message.reply.reject(goneError());
  }

  // What the loop does

  /** Takes the outcome of the create into account, once. */
  async #finishCreate(): Promise<void> {
    const create = this.#create;
    if (create === undefined || create.settled || this.#keeper.current.state !== "creating") return;
    create.settled = true;
    const outcome = await create.outcome;
    if ("failure" in outcome) return this.#failCreate(outcome.failure);
    const { started, startPath, origin } = outcome.created;
    this.#life.attach(started);
    try {
      await this.#life.saveStarted(started, startPath, origin);
    } catch (error) {
      await this.#life
        .tearDown("creating")
        .catch((failure: unknown) => this.#log.error({ err: failure }, "a failed create was not undone completely"));
      return this.#failCreate(asStartFailure(error));
    }
    this.#life.running?.activity.touch();
    this.#created.resolve(this.record);
    const message = `sandbox was created (${startPath})`;
    this.#context.events.emit("sandbox.created", { sandboxId: this.id, template: shownTemplate(this.record.spec), message });
  }

  async #failCreate(failure: StartFailure): Promise<void> {
    await this.#keeper.keepConsole(failure.console);
    this.#context.capacity.release(this.id);
    await this.#context.store
      .removeImages(this.id)
      .catch((error: unknown) =>
        this.#log.warn({ err: error }, "what a failed create left could not be removed; deleting the sandbox tries again"),
      );
    await this.#keeper.saveAnyway({
      layers: [],
      machine: null,
      disk: null,
      state: must(advance("creating", { kind: "rolled-back" }), "a state after a failed create"),
      failureReason: failure.error.message,
      vmExit: failure.vmExit ?? null,
      ...noVm,
      timeEndedMs: Date.now(),
    });
    this.#log.warn({ err: failure.error, detail: failure.error.detail }, "a create failed and was rolled back");
    this.#created.reject(failure.error);
    this.#tell("sandbox.failed", failure.error.message);
  }

  async #onVmExited(running: RunningVm): Promise<void> {
    if (this.#life.running !== running) return; // ended as part of a stop or pause
    const exit = await running.vm.exited;
    const failureReason = `the VM ended: ${describeExit(exit)}`;
    this.#log.warn({ exitCode: exit.exitCode, signal: exit.signal }, failureReason);
    running.end(new PlatformError("guest_unreachable", failureReason));
    await this.#keeper.keepConsole(await running.vm.console(64 * 1024).catch(() => undefined)); // evidence is a courtesy
    await this.#life.onVmLost(failureReason, exit);
  }

  async #onInactive(): Promise<void> {
    const remainingMs = this.running?.activity.remainingMs;
    if (remainingMs === undefined || remainingMs > 0) {
      this.running?.activity.touch(); // it was used since the timer fired: start anew
      return;
    }
    try {
      const captured = await this.#life.pause({ memory: true });
      this.#pauseRetry.reset();
      if (captured !== undefined) this.#tell("sandbox.auto_paused", "sandbox was paused: nobody used it", captureDetail(captured));
    } catch (error) {
      const waitMs = this.#pauseRetry.next();
      const retryAt = new Date(Date.now() + waitMs).toISOString();
      const message = `pausing failed and is tried again at ${retryAt}: ${error instanceof Error ? error.message : String(error)}`;
      this.#life.running?.activity.postpone(waitMs);
      await this.#keeper.saveAnyway({ notice: message });
      this.#tell("sandbox.pause_failed", message, { retry_at: retryAt });
    }
  }

  async #onCheckpointDue(): Promise<void> {
    this.#isCheckpointDue = false;
    if (this.#keeper.current.state === "running") await this.#checkpoint("sandbox was checkpointed, as it is at intervals");
  }

  async #checkpoint(message: string): Promise<Generation> {
    const captured = await this.#life.capture("checkpoint", { memory: true });
    const { generation } = captured;
    this.#tell("sandbox.checkpointed", `${message}: generation ${generation.number}`, captureDetail(captured));
    return generation;
  }

  async #stop(why: StopReason | "moved"): Promise<void> {
    const reason = why === "moved" ? "deleted" : why;
    const decision = decide(this.#keeper.current.state, { kind: "stop" });
    assert(decision.kind !== "deny", "a stop is never denied");
    if (decision.kind === "accept") {
      await this.running?.logs.finish();
      // No new tunnels from here on; the guest is cut off before anyone is told that it stops
      this.#life.running?.end(new PlatformError("guest_unreachable", "the sandbox was stopped"));
      const create = this.#create;
      const isCreating = this.#keeper.current.state === "creating" && create !== undefined;
      await this.#keeper.saveAnyway({ state: decision.next, stopReason: reason, failureReason: null });
      if (isCreating) await this.#abortCreate(create);
      await this.#context.onStep?.("delete:recorded", this.id);
    }
    if (this.#keeper.current.state === "stopping") {
      await this.#life.tearDown("stopping");
      await this.#context.onStep?.("delete:vm-ended", this.id);
      const stopped: Partial<SandboxRecord> = {
        state: must(advance("stopping", { kind: "completed" }), "a state after stopping"),
        ...noVm,
        currentGeneration: null,
        hasMemory: false,
        hasOwnGeneration: false,
        layers: [],
        timeEndedMs: Date.now(),
      };
      // What is about to be forgotten need not be written down first
      if (reason === "deleted") this.#keeper.apply(stopped);
      else {
        await this.#keeper.saveAnyway(stopped);
        await this.#context.store.removeImages(this.id);
        this.#tell("sandbox.stopped", `sandbox was stopped: ${reason}`);
      }
    }
    if (reason === "deleted") await this.#forget(why);
  }

  async #abortCreate(create: CreateInFlight): Promise<void> {
    const aborted = new PlatformError("create_aborted", "the sandbox was deleted while it was being created");
    create.abort.abort(aborted);
    create.settled = true;
    const outcome = await create.outcome; // its rollback
    if ("created" in outcome) this.#life.attach(outcome.created.started); // it was quicker: ended as a running one is
    this.#created.reject(aborted);
  }

  async #forget(why: StopReason | "moved"): Promise<void> {
    await this.#context.store.remove(this.id);
    await this.#context.onStep?.("delete:removed", this.id);
    this.#isGone = true;
    this.#mailbox.close();
    this.#context.watchers.publish({ kind: "removed", sandboxId: this.id });
    this.#log.info({ why }, "sandbox was removed");
    this.#onGone();
    if (why !== "moved") this.#tell("sandbox.stopped", "sandbox was deleted");
  }

  #tell(kind: EventKind, message: string, detail: Readonly<Record<string, string>> = {}): void {
    this.#context.events.emit(kind, { sandboxId: this.id, message, detail });
  }

  #specChange(): SpecChangeParts {
    return { keeper: this.#keeper, context: this.#context, running: this.#life.running, log: this.#log };
  }

  async #release(): Promise<void> {
    const shuttingDown = new PlatformError("shutting_down", "the host agent is shutting down; try again in a moment", { retryAfterSec: 5 });
    if (this.#create !== undefined && !this.#create.settled) {
      this.#create.abort.abort(shuttingDown);
      await this.#finishCreate();
    }
    if (this.#life.running !== undefined) await this.#keeper.saveLastActive(this.record.timeLastActiveMs);
    await this.#life.release(shuttingDown);
    this.#isGone = true;
    this.#mailbox.close();
  }

  /** Keeps the instant of the last activity for the next host agent; called now and then. */
  async saveLastActive(): Promise<void> {
    if (this.running !== undefined) await this.#keeper.saveLastActive(this.record.timeLastActiveMs);
  }
}
