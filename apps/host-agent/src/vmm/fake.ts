import { PlatformError } from "@roost/contract";
import { Deferred } from "@roost/kit";

import { readDeviceState } from "./fake-device-state.ts";
import { FakeFaults, type FakeOperation } from "./fake-faults.ts";
import { FakeMemory } from "./fake-memory.ts";
import { FakeVm, type FakeProcess } from "./fake-vm.ts";
import type { Accelerator, Vm, VmExit, VmFingerprint, VmmDriver, VmRecord, VmSpec } from "./driver.ts";

/** Above PID_MAX_LIMIT (4 Mi): no process of any machine has such a pid, so nothing real is ever signalled. */
const firstFakePid = 5_000_000;
/** Console kept of a fake VM in `bytes` */
const consoleBytesMax = 128 * 1024;

/** What stands for the inside of a fake VM: typically an HTTP server on loopback that speaks as a guest agent. */
export interface FakeGuest {
  /** Where it listens; a fake network sends the host agent's connections there */
  readonly address?: { readonly host: string; readonly port: number };
  /** What it knows, as JSON: asked when its VM is stopped, and kept in the VM's memory. A restored guest gets it back. */
  capture?(): unknown;
  /** Its CPUs were stopped, or go on */
  setStopped?(stopped: boolean): void;
  close(): Promise<void> | void;
}

export interface FakeDriverOptions {
  /**
   * Makes the guest of each VM that starts; without it guests are silent. `memory` is what the guest knew whose memory is restored, as its
   * `capture` told; undefined for one that boots.
   */
  readonly startGuest?: (spec: VmSpec, memory: unknown) => Promise<FakeGuest> | FakeGuest;
}

/**
 * VMs that start in microseconds and do as a test tells them.
 *
 * The driver object stands for the machine: its VMs live on when the host agent that started them is dropped, and
 * another host agent given the same object adopts them.
 */
export class FakeDriver implements VmmDriver {
  readonly name = "fake";
  /** What differs from the machine this one was: memory images made before do not fit any more */
  fingerprintChanges: Partial<VmFingerprint> = {};
  readonly #options: FakeDriverOptions;
  /** By pid; ended ones stay, as an exit record on disk does */
  readonly #processes = new Map<number, FakeProcess>();
  readonly #faults = new FakeFaults();
  readonly #adoptionRefused = new Set<string>();
  #nextPid = firstFakePid;

  constructor(options: FakeDriverOptions = {}) {
    this.#options = options;
  }

  async version(): Promise<string> {
    return "fake 1";
  }

  async fingerprint(accelerator: Accelerator): Promise<VmFingerprint> {
    return { vmm: this.name, vmmVersion: await this.version(), accelerator, machine: "fake", cpu: "fake", ...this.fingerprintChanges };
  }

  // What tests ask for

  /** The next such operation (after those already ordered) is refused, and changes nothing. `start` is any start, `restore` one from a memory image. */
  failNext(operation: FakeOperation): void {
    this.#faults.order(operation, "fail");
  }

  /** The next such operation never ends, unless its signal aborts or its VM ends. */
  hangNext(operation: FakeOperation): void {
    this.#faults.order(operation, "hang");
  }

  /** The next start (after those already ordered) fails as a VMM that ends at once does. */
  failNextStart(): void {
    this.failNext("start");
  }

  /** The next start never ends, unless its signal aborts. */
  hangNextStart(): void {
    this.hangNext("start");
  }

  /** Starts that hang right now. */
  get startsHanging(): number {
    return this.#faults.hanging("start") + this.#faults.hanging("restore");
  }

  /** Operations of this kind that hang right now. */
  hanging(operation: FakeOperation): number {
    return this.#faults.hanging(operation);
  }

  /** Adoption of this sandbox's VM fails: it runs but does not answer. */
  refuseAdoption(sandboxId: string): void {
    this.#adoptionRefused.add(sandboxId);
  }

  /** Sandboxes whose VM runs; a stopped one counts. */
  get running(): string[] {
    return [...this.#processes.values()].filter((fake) => fake.exit === undefined).map((fake) => fake.record.sandboxId);
  }

  /** Sandboxes whose guest is stopped. */
  get stopped(): string[] {
    return [...this.#processes.values()].filter((fake) => fake.exit === undefined && fake.isStopped).map((fake) => fake.record.sandboxId);
  }

  /** What the VM of a sandbox was started with; undefined when none runs. */
  specOf(sandboxId: string): VmSpec | undefined {
    return this.#runningOf(sandboxId)?.spec;
  }

  guestOf(sandboxId: string): FakeGuest | undefined {
    return this.#runningOf(sandboxId)?.guest;
  }

  /** File names of the layers a VM has open, oldest first; empty when none runs. */
  layersOf(sandboxId: string): readonly string[] {
    return this.#runningOf(sandboxId)?.layers ?? [];
  }

  writeConsole(sandboxId: string, text: string): void {
    const fake = this.#runningOf(sandboxId);
    if (fake !== undefined) fake.console = Buffer.concat([fake.console, Buffer.from(text)]).subarray(-consoleBytesMax);
  }

  /** The VM ends by itself, as by a crash (`signal`) or a guest that powers off (`exitCode: 0`). */
  async end(sandboxId: string, how: { readonly exitCode: number } | { readonly signal: string }): Promise<void> {
    const fake = this.#runningOf(sandboxId);
    if (fake === undefined) throw new Error(`no fake VM of ${sandboxId} runs`);
    await this.#vm(fake).end("signal" in how ? { exitCode: null, signal: how.signal } : { exitCode: how.exitCode, signal: null });
  }

  // The port

  async start(spec: VmSpec, signal?: AbortSignal): Promise<Vm> {
    signal?.throwIfAborted();
    const refused = () => startError("the fake VMM was told to fail");
    await this.#faults.meet("start", { refused, ...(signal === undefined ? {} : { signal }) });
    if (spec.begin.kind === "restore") await this.#faults.meet("restore", { refused, ...(signal === undefined ? {} : { signal }) });
    if (this.#runningOf(spec.sandboxId) !== undefined) throw new Error(`a fake VM of ${spec.sandboxId} runs already`);
    const memory = await this.#beginMemory(spec);
    const guest = await this.#options.startGuest?.(spec, spec.begin.kind === "restore" ? memory.recall() : undefined);
    if (signal?.aborted === true) {
      await guest?.close();
      throw signal.reason;
    }
    const pid = this.#nextPid;
    this.#nextPid += 2;
    const fake: FakeProcess = {
      spec,
      record: {
        formatVersion: 1,
        driver: this.name,
        vmmVersion: await this.version(),
        accelerator: spec.accelerator,
        sandboxId: spec.sandboxId,
        folder: spec.folder,
        bootId: "fake",
        vmm: { pid, startTicks: "1" },
        vmmName: `fake-${pid}`,
        supervisor: { pid: pid + 1, startTicks: "1" },
        cgroup: spec.cgroup ?? null,
        timeStartedMs: Date.now(),
      },
      guest,
      memory,
      layers: [...(spec.disks?.root.layers ?? [])],
      ended: new Deferred(),
      console: spec.begin.kind === "boot" ? Buffer.from("fake guest is up\n") : Buffer.alloc(0),
      exit: undefined,
      isStopped: false,
    };
    this.#processes.set(pid, fake);
    return this.#vm(fake);
  }

  async adopt(record: VmRecord): Promise<Vm | VmExit> {
    const fake = this.#processes.get(record.vmm.pid);
    if (fake === undefined) return { exitCode: null, signal: null, consoleTail: [] };
    if (fake.exit !== undefined) return fake.exit;
    if (this.#adoptionRefused.has(record.sandboxId)) {
      throw new PlatformError("guest_unreachable", "the VM runs but does not answer", {
        detail: "the fake VMM was told to refuse adoption",
      });
    }
    return this.#vm(fake);
  }

  async destroy(record: VmRecord): Promise<void> {
    const fake = this.#processes.get(record.vmm.pid);
    if (fake !== undefined) await this.#vm(fake).end({ exitCode: null, signal: "SIGKILL" });
  }

  async #beginMemory(spec: VmSpec): Promise<FakeMemory> {
    const { begin, memoryMib } = spec;
    if (begin.kind === "boot") return new FakeMemory({ memoryMib, baseFile: null });
    const memory = new FakeMemory({ memoryMib, baseFile: begin.baseFile });
    const handle = memory.open();
    try {
      await begin.fill(handle);
    } catch (error) {
      throw error instanceof PlatformError ? error : startError(error instanceof Error ? error.message : String(error));
    } finally {
      handle.close();
    }
    const trouble = await readDeviceState(begin.deviceState, spec, memory);
    if (trouble !== undefined) throw startError(trouble);
    return memory;
  }

  #runningOf(sandboxId: string): FakeProcess | undefined {
    return [...this.#processes.values()].find((fake) => fake.record.sandboxId === sandboxId && fake.exit === undefined);
  }

  #vm(fake: FakeProcess): FakeVm {
    return new FakeVm(fake, this.#faults);
  }
}

function startError(detail: string): PlatformError {
  return new PlatformError("sandbox_start_failed", "the VM did not start", { detail });
}
