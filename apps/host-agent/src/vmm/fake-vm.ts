import { assert, Deferred } from "@roost/kit";

import { consoleLines } from "./console.ts";
import { exitConsoleLines, type GuestMemory, type Vm, type VmExit, type VmRecord, type VmSpec } from "./driver.ts";
import { writeDeviceState } from "./fake-device-state.ts";
import type { FakeFaults, FakeOperation } from "./fake-faults.ts";
import type { FakeMemory } from "./fake-memory.ts";
import type { FakeGuest } from "./fake.ts";

/** What all handles on one fake VM share. */
export interface FakeProcess {
  spec: VmSpec;
  record: VmRecord;
  readonly guest: FakeGuest | undefined;
  readonly memory: FakeMemory;
  layers: string[];
  readonly ended: Deferred<VmExit>;
  console: Buffer;
  exit: VmExit | undefined;
  isStopped: boolean;
}

/** One host agent's handle on a fake VM. */
export class FakeVm implements Vm {
  readonly #fake: FakeProcess;
  readonly #faults: FakeFaults;
  readonly #exited = new Deferred<VmExit>();
  #released = false;

  constructor(fake: FakeProcess, faults: FakeFaults) {
    this.#fake = fake;
    this.#faults = faults;
    void fake.ended.promise.then((exit) => {
      if (!this.#released) this.#exited.resolve(exit);
    });
  }

  get record(): VmRecord {
    return this.#fake.record;
  }

  get exited(): Promise<VmExit> {
    return this.#exited.promise;
  }

  async console(bytesMax: number): Promise<Buffer> {
    return this.#fake.console.subarray(-bytesMax);
  }

  async consoleTail(lines: number): Promise<string[]> {
    return consoleLines(this.#fake.console, lines);
  }

  async stop(): Promise<void> {
    await this.#begin("stop");
    if (this.#fake.isStopped) return;
    this.#fake.isStopped = true;
    this.#fake.guest?.setStopped?.(true);
    const state = this.#fake.guest?.capture?.();
    if (state !== undefined) this.#fake.memory.keep(state);
  }

  async continue(): Promise<void> {
    await this.#begin("continue");
    if (!this.#fake.isStopped) return;
    this.#fake.isStopped = false;
    this.#fake.guest?.setStopped?.(false);
  }

  async isStopped(): Promise<boolean> {
    this.#assertRunning();
    return this.#fake.isStopped;
  }

  async saveDeviceState(path: string): Promise<void> {
    await this.#begin("save");
    assert(this.#fake.isStopped, "device state is of a stopped guest");
    await writeDeviceState(path, this.#fake.spec, this.#fake.memory);
  }

  async openMemory(): Promise<GuestMemory> {
    this.#assertRunning();
    assert(this.#fake.isStopped, "memory is of a stopped guest");
    return this.#fake.memory.open();
  }

  async pushLayer(layer: string): Promise<void> {
    await this.#begin("push");
    if (this.#fake.layers.at(-1) === layer) return;
    assert(!this.#fake.layers.includes(layer), "a layer is pushed once");
    this.#fake.layers.push(layer);
  }

  async layers(): Promise<string[]> {
    await this.#begin("layers");
    return [...this.#fake.layers];
  }

  async flattenLayers(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    await this.#begin("flatten", signal);
    this.#fake.layers.splice(0, this.#fake.layers.length - 1);
  }

  moveTo(place: { readonly sandboxId: string; readonly folder: string }): VmRecord {
    const fake = this.#fake;
    fake.record = { ...fake.record, sandboxId: place.sandboxId, folder: place.folder };
    fake.spec = { ...fake.spec, sandboxId: place.sandboxId, folder: place.folder };
    return fake.record;
  }

  async shutdown(): Promise<VmExit> {
    return this.end({ exitCode: 0, signal: null });
  }

  async kill(): Promise<VmExit> {
    return this.end({ exitCode: null, signal: "SIGKILL" });
  }

  release(): void {
    this.#released = true;
  }

  async end(how: Pick<VmExit, "exitCode" | "signal">): Promise<VmExit> {
    const fake = this.#fake;
    if (fake.exit === undefined) {
      fake.exit = { ...how, consoleTail: consoleLines(fake.console, exitConsoleLines) };
      await fake.guest?.close();
      fake.ended.resolve(fake.exit);
    }
    return fake.ended.promise;
  }

  async #begin(operation: FakeOperation, signal?: AbortSignal): Promise<void> {
    this.#assertRunning();
    const refused = () => new Error(`the fake VMM was told to refuse ${operation}`);
    await this.#faults.meet(operation, { refused, ended: this.#fake.ended.promise, ...(signal === undefined ? {} : { signal }) });
    this.#assertRunning();
  }

  /** As a real one's control connection would tell. */
  #assertRunning(): void {
    if (this.#fake.exit !== undefined) throw new Error("the fake VM has ended");
  }
}
