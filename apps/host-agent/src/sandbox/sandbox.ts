import type { Duplex } from "node:stream";

import { advance, decide, PlatformError, type SandboxState } from "@roost/contract";
import { assert, Deferred, Mailbox, must, unreachable, type Logger } from "@roost/kit";

import { SandboxMetrics } from "../metrics/sandbox-metrics.ts";
import type { VmExit } from "../vmm/driver.ts";
import type { SandboxContext } from "./context.ts";
import { RecordKeeper } from "./record-keeper.ts";
import { RunningVm } from "./running-vm.ts";
import type { SandboxRecord, StopReason } from "./sandbox-record.ts";
import { describeExit, StartFailure, startVm, type StartedVm } from "./start-vm.ts";
import { goneError, wrongState } from "./wrong-state.ts";

/** Requests that may wait for one sandbox; above it `sandbox_busy`. */
export const requestsWaitingMax = 32;
/** Places kept free for what the sandbox itself posts: a create's end, a VM's end, the inactivity timer. */
const internalMessagesMax = 8;

type Message =
  | { readonly kind: "create-ended" }
  | { readonly kind: "vm-exited"; readonly running: RunningVm; readonly exit: VmExit }
  | { readonly kind: "inactive" }
  | { readonly kind: "stop"; readonly reason: StopReason; readonly reply: Deferred<void> }
  | { readonly kind: "set-timeout"; readonly timeoutSec: number; readonly reply: Deferred<SandboxRecord> }
  | { readonly kind: "release"; readonly reply: Deferred<void> };

type CreateOutcome = { readonly started: StartedVm } | { readonly failure: StartFailure };

interface CreateInFlight {
  readonly abort: AbortController;
  /** Never rejects */
  readonly outcome: Promise<CreateOutcome>;
  /** Its outcome has been taken into account */
  settled: boolean;
}

/**
 * One sandbox of this host: its record, and the one loop that changes it.
 *
 * Everybody else (RPC handlers, the inactivity timer, the watcher of the VM's end) posts to a bounded mailbox. The loop takes one
 * message after the other and asks the contract's `decide` and `advance` what it means. A create runs beside the loop, so that a
 * stop can abort it; the stop then waits for its rollback. States are durable before anyone is told of them.
 */
export class Sandbox {
  readonly id: string;
  readonly metrics: SandboxMetrics;
  readonly #context: SandboxContext;
  readonly #log: Logger;
  readonly #keeper: RecordKeeper;
  readonly #mailbox = new Mailbox<Message>(requestsWaitingMax + internalMessagesMax);
  #requestsWaiting = 0;
  #running: RunningVm | undefined;
  #create: CreateInFlight | undefined;
  readonly #created = new Deferred<SandboxRecord>();
  readonly #onGone: () => void;
  #isGone = false;
  #isKnown = false;

  constructor(options: { readonly record: SandboxRecord; readonly context: SandboxContext; readonly onGone: () => void }) {
    this.id = options.record.spec.sandboxId;
    this.#context = options.context;
    this.#onGone = options.onGone;
    this.#log = options.context.log.child({ sandboxId: this.id });
    const { store, watchers } = options.context;
    this.#keeper = new RecordKeeper({ record: options.record, store, watchers, log: this.#log });
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
    const timeLastActiveMs = this.#running?.activity.timeLastActiveMs ?? this.#keeper.current.timeLastActiveMs;
    return { ...this.#keeper.current, timeLastActiveMs };
  }

  /** Set exactly while the sandbox is running. */
  get running(): RunningVm | undefined {
    return this.#keeper.current.state === "running" ? this.#running : undefined;
  }

  // What starts it

  /** Makes the first record durable and starts the create. Rejects when even the record could not be written. */
  async begin(): Promise<void> {
    assert(this.#keeper.current.state === "creating", "a create begins once");
    await this.#keeper.begin();
    this.#isKnown = true;
    this.#log.info({ template: this.#keeper.current.spec.template, state: "creating" }, "sandbox is creating");
    const abort = new AbortController();
    const outcome = startVm({
      spec: this.#keeper.current.spec,
      context: this.#context,
      keepVmRecord: async (vm) => {
        await this.#keeper.save({ vm }, { visible: false });
      },
      log: this.#log,
      signal: abort.signal,
    }).then(
      (started): CreateOutcome => ({ started }),
      (error: unknown): CreateOutcome => ({ failure: asStartFailure(error) }),
    );
    this.#create = { abort, outcome, settled: false };
    void outcome.then(() => this.#post({ kind: "create-ended" }));
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
  resumeLoop(adopted?: StartedVm): void {
    this.#isKnown = true;
    if (adopted !== undefined) this.#attach(adopted, { graceMs: this.#context.times.adoptionGraceMs });
    void this.#loop();
  }

  /** Resolves with the running sandbox, when it runs; rejects when its create failed or was aborted. */
  async created(): Promise<SandboxRecord> {
    return this.#keeper.current.state === "running" ? this.record : this.#created.promise;
  }

  // What others ask

  /** Ends the sandbox; with `deleted`, forgets it too. Resolves when nothing of it is left. */
  async stop(reason: StopReason): Promise<void> {
    const reply = new Deferred<void>();
    this.#request({ kind: "stop", reason, reply });
    return reply.promise;
  }

  async setTimeoutSec(timeoutSec: number): Promise<SandboxRecord> {
    const reply = new Deferred<SandboxRecord>();
    this.#request({ kind: "set-timeout", timeoutSec, reply });
    return reply.promise;
  }

  /** The VM is left running for the next host agent; this object is of no more use. Ends a create in flight. */
  async release(): Promise<void> {
    const reply = new Deferred<void>();
    if (!this.#post({ kind: "release", reply })) return;
    await reply.promise;
  }

  touch(): void {
    this.#use().activity.touch();
  }

  async connect(port: number, signal?: AbortSignal): Promise<Duplex> {
    return this.#use().tunnels.connect(port, signal);
  }

  async console(bytesMax: number): Promise<Buffer> {
    const vm = this.#running?.vm;
    if (vm !== undefined) return vm.console(bytesMax);
    return (await this.#context.store.readConsole(this.id)).subarray(-bytesMax);
  }

  #use(): RunningVm {
    const decision = decide(this.#keeper.current.state, { kind: "use" });
    if (decision.kind === "deny") throw wrongState(this.#keeper.current.state, decision.reason);
    return must(this.#running, "a running sandbox has a VM");
  }

  // The mailbox

  #request(message: Message & { readonly reply: Deferred<never> | Deferred<void> | Deferred<SandboxRecord> }): void {
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
        return this.#onVmExited(message.running, message.exit);
      case "inactive":
        return this.#onInactive();
      case "stop":
        await this.#stop(message.reason);
        return message.reply.resolve();
      case "set-timeout":
        return message.reply.resolve(await this.#setTimeoutSec(message.timeoutSec));
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
    this.#attach(outcome.started);
    try {
      const nowMs = Date.now();
      await this.#keeper.save({
        state: must(advance("creating", { kind: "completed" }), "a state after creating"),
        slot: outcome.started.slot.index,
        vm: outcome.started.vm.record,
        timeStartedMs: nowMs,
        timeLastActiveMs: nowMs,
        versions: outcome.started.versions,
      });
    } catch (error) {
      await this.#tearDown("creating").catch((failure: unknown) =>
        this.#log.error({ err: failure }, "a failed create was not undone completely"),
      );
      return this.#failCreate(asStartFailure(error));
    }
    this.#running?.activity.touch();
    this.#created.resolve(this.record);
  }

  async #failCreate(failure: StartFailure): Promise<void> {
    await this.#keeper.keepConsole(failure.console);
    this.#context.capacity.release(this.id);
    await this.#keeper.saveAnyway({
      state: must(advance("creating", { kind: "rolled-back" }), "a state after a failed create"),
      failureReason: failure.error.message,
      vmExit: failure.vmExit ?? null,
      vm: null,
      slot: null,
      timeEndedMs: Date.now(),
    });
    this.#log.warn({ err: failure.error, detail: failure.error.detail }, "a create failed and was rolled back");
    this.#created.reject(failure.error);
  }

  #attach(started: StartedVm, options: { readonly graceMs?: number } = {}): void {
    const running = new RunningVm({
      vm: started.vm,
      slot: started.slot,
      spec: () => this.#keeper.current.spec,
      context: this.#context,
      timeLastActiveMs: options.graceMs === undefined ? Date.now() : this.#keeper.current.timeLastActiveMs,
      ...options,
      onInactive: () => this.#post({ kind: "inactive" }),
      log: this.#log,
    });
    this.#running = running;
    void started.vm.exited.then((exit) => this.#post({ kind: "vm-exited", running, exit }));
  }

  async #onVmExited(running: RunningVm, exit: VmExit): Promise<void> {
    if (this.#running !== running) return; // ended as part of a stop
    const next = advance(this.#keeper.current.state, { kind: "vm-lost" });
    if (next === undefined) return;
    const failureReason = `the VM ended: ${describeExit(exit)}`;
    this.#log.warn({ exitCode: exit.exitCode, signal: exit.signal }, failureReason);
    running.end(new PlatformError("guest_unreachable", `the sandbox failed: ${failureReason}`));
    await this.#keeper.keepConsole(await running.vm.console(64 * 1024).catch(() => undefined)); // evidence is a courtesy
    await this.#keeper.saveAnyway({ state: next, failureReason, vmExit: exit, timeEndedMs: Date.now() });
    await this.#tearDown("failed");
    await this.#keeper.saveAnyway({ slot: null, vm: null }, { visible: false });
  }

  async #onInactive(): Promise<void> {
    const remainingMs = this.running?.activity.remainingMs;
    if (remainingMs === undefined || remainingMs > 0) {
      this.running?.activity.touch(); // it was used since the timer fired: start anew
      return;
    }
    await this.#stop("timeout");
  }

  async #stop(reason: StopReason): Promise<void> {
    const decision = decide(this.#keeper.current.state, { kind: "stop" });
    assert(decision.kind !== "deny", "a stop is never denied");
    if (decision.kind === "accept") {
      // No new tunnels from here on; the guest is cut off before anyone is told that it stops
      this.#running?.end(new PlatformError("guest_unreachable", "the sandbox was stopped"));
      const create = this.#create;
      const isCreating = this.#keeper.current.state === "creating" && create !== undefined;
      await this.#keeper.saveAnyway({ state: decision.next, stopReason: reason, failureReason: null });
      if (isCreating) await this.#abortCreate(create);
    }
    if (this.#keeper.current.state === "stopping") {
      await this.#tearDown("stopping");
      const stopped: Partial<SandboxRecord> = {
        state: must(advance("stopping", { kind: "completed" }), "a state after stopping"),
        slot: null,
        vm: null,
        timeEndedMs: Date.now(),
      };
      // What is about to be forgotten need not be written down first
      if (reason === "deleted") this.#keeper.apply(stopped);
      else await this.#keeper.saveAnyway(stopped);
    }
    if (reason === "deleted") await this.#forget();
  }

  async #abortCreate(create: CreateInFlight): Promise<void> {
    const aborted = new PlatformError("create_aborted", "the sandbox was deleted while it was being created");
    create.abort.abort(aborted);
    create.settled = true;
    const outcome = await create.outcome; // its rollback
    if ("started" in outcome) this.#attach(outcome.started); // it was quicker: ended as a running one is
    this.#created.reject(aborted);
  }

  /** Ends the VM and gives back what it held. Repeatable after a failure: tries every step, then tells what failed. */
  async #tearDown(why: string): Promise<void> {
    const failures: unknown[] = [];
    const attempt = async (work: () => Promise<unknown>) => {
      await work().catch((error: unknown) => failures.push(error));
    };
    const running = this.#running;
    if (running !== undefined) {
      running.end(new PlatformError("guest_unreachable", "the sandbox was stopped"));
      await attempt(() => running.vm.kill());
      // A slot whose VMM still lives must not go to another sandbox
      if (failures.length === 0) await attempt(() => this.#context.network.release(running.slot));
    } else if (this.#keeper.current.vm !== null) {
      const { vm } = this.#keeper.current;
      await attempt(() => this.#context.driver.destroy(vm));
    }
    if (failures.length === 0) await attempt(() => this.#context.store.removeVmFiles(this.id));
    if (failures.length > 0) {
      throw new PlatformError("internal", "the sandbox could not be ended completely; delete it again", {
        detail: `${why}: ${failures.map(String).join("; ")}`,
        cause: failures[0],
      });
    }
    this.#running = undefined;
    this.#context.capacity.release(this.id);
  }

  async #forget(): Promise<void> {
    await this.#context.store.remove(this.id);
    this.#isGone = true;
    this.#mailbox.close();
    this.#context.watchers.publish({ kind: "removed", sandboxId: this.id });
    this.#log.info({}, "sandbox was removed");
    this.#onGone();
  }

  async #setTimeoutSec(timeoutSec: number): Promise<SandboxRecord> {
    const running = this.#use();
    await this.#keeper.save({ spec: { ...this.#keeper.current.spec, timeoutSec } });
    running.activity.setTimeoutSec(timeoutSec);
    return this.record;
  }

  async #release(): Promise<void> {
    const shuttingDown = new PlatformError("shutting_down", "the host agent is shutting down; try again in a moment", { retryAfterSec: 5 });
    if (this.#create !== undefined && !this.#create.settled) {
      this.#create.abort.abort(shuttingDown);
      await this.#finishCreate();
    }
    if (this.#running !== undefined) {
      await this.#keeper.saveLastActive(this.record.timeLastActiveMs);
      this.#running.end(shuttingDown);
      this.#running.vm.release();
    }
    this.#isGone = true;
    this.#mailbox.close();
  }

  /** Keeps the instant of the last activity for the next host agent; called now and then. */
  async saveLastActive(): Promise<void> {
    if (this.running !== undefined) await this.#keeper.saveLastActive(this.record.timeLastActiveMs);
  }
}

function asStartFailure(error: unknown): StartFailure {
  if (error instanceof StartFailure) return error;
  const known =
    error instanceof PlatformError
      ? error
      : new PlatformError("sandbox_start_failed", "the sandbox could not be started", { cause: error });
  return new StartFailure(known, undefined, undefined);
}
