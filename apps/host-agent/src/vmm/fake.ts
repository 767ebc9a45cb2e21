import { PlatformError } from "@roost/contract";
import { Deferred } from "@roost/kit";

import { consoleLines } from "./console.ts";
import { exitConsoleLines, type Vm, type VmExit, type VmmDriver, type VmRecord, type VmSpec } from "./driver.ts";

/** Above PID_MAX_LIMIT (4 Mi): no process of any machine has such a pid, so nothing real is ever signalled. */
const firstFakePid = 5_000_000;
/** Console kept of a fake VM in `bytes` */
const consoleBytesMax = 128 * 1024;

/** What stands for the inside of a fake VM: typically an HTTP server on loopback that speaks as a guest agent. */
export interface FakeGuest {
  /** Where it listens; a fake network sends the host agent's connections there */
  readonly address?: { readonly host: string; readonly port: number };
  close(): Promise<void> | void;
}

export interface FakeDriverOptions {
  /** Makes the guest of each VM that starts; without it guests are silent. */
  readonly startGuest?: (spec: VmSpec) => Promise<FakeGuest> | FakeGuest;
}

interface FakeProcess {
  readonly spec: VmSpec;
  readonly record: VmRecord;
  readonly guest: FakeGuest | undefined;
  readonly ended: Deferred<VmExit>;
  console: Buffer;
  exit: VmExit | undefined;
}

/**
 * VMs that start in microseconds and do as a test tells them.
 *
 * The driver object stands for the machine: its VMs live on when the host agent that started them is dropped, and
 * another host agent given the same object adopts them.
 */
export class FakeDriver implements VmmDriver {
  readonly name = "fake";
  readonly #options: FakeDriverOptions;
  /** By pid; ended ones stay, as an exit record on disk does */
  readonly #processes = new Map<number, FakeProcess>();
  readonly #startFaults: ("fail" | "hang")[] = [];
  readonly #adoptionRefused = new Set<string>();
  #nextPid = firstFakePid;
  #startsHanging = 0;

  constructor(options: FakeDriverOptions = {}) {
    this.#options = options;
  }

  async version(): Promise<string> {
    return "fake 1";
  }

  // What tests ask for

  /** The next start (after those already ordered) fails as a VMM that ends at once does. */
  failNextStart(): void {
    this.#startFaults.push("fail");
  }

  /** The next start never ends, unless its signal aborts. */
  hangNextStart(): void {
    this.#startFaults.push("hang");
  }

  /** Starts that hang right now. */
  get startsHanging(): number {
    return this.#startsHanging;
  }

  /** Adoption of this sandbox's VM fails: it runs but does not answer. */
  refuseAdoption(sandboxId: string): void {
    this.#adoptionRefused.add(sandboxId);
  }

  /** Sandboxes whose VM runs. */
  get running(): string[] {
    return [...this.#processes.values()].filter((fake) => fake.exit === undefined).map((fake) => fake.spec.sandboxId);
  }

  /** What the VM of a sandbox was started with; undefined when none runs. */
  specOf(sandboxId: string): VmSpec | undefined {
    return this.#runningOf(sandboxId)?.spec;
  }

  guestOf(sandboxId: string): FakeGuest | undefined {
    return this.#runningOf(sandboxId)?.guest;
  }

  writeConsole(sandboxId: string, text: string): void {
    const fake = this.#runningOf(sandboxId);
    if (fake !== undefined) fake.console = Buffer.concat([fake.console, Buffer.from(text)]).subarray(-consoleBytesMax);
  }

  /** The VM ends by itself, as by a crash (`signal`) or a guest that powers off (`exitCode: 0`). */
  async end(sandboxId: string, how: { readonly exitCode: number } | { readonly signal: string }): Promise<void> {
    const fake = this.#runningOf(sandboxId);
    if (fake === undefined) throw new Error(`no fake VM of ${sandboxId} runs`);
    await this.#end(fake, "signal" in how ? { exitCode: null, signal: how.signal } : { exitCode: how.exitCode, signal: null });
  }

  // The port

  async start(spec: VmSpec, signal?: AbortSignal): Promise<Vm> {
    signal?.throwIfAborted();
    const fault = this.#startFaults.shift();
    if (fault === "fail")
      throw new PlatformError("sandbox_start_failed", "the VM did not start", { detail: "the fake VMM was told to fail" });
    if (fault === "hang") await this.#hang(signal);
    if (this.#runningOf(spec.sandboxId) !== undefined) throw new Error(`a fake VM of ${spec.sandboxId} runs already`);
    const guest = await this.#options.startGuest?.(spec);
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
        supervisor: { pid: pid + 1, startTicks: "1" },
        cgroup: spec.cgroup ?? null,
        timeStartedMs: Date.now(),
      },
      guest,
      ended: new Deferred(),
      console: Buffer.from("fake guest is up\n"),
      exit: undefined,
    };
    this.#processes.set(pid, fake);
    return this.#handle(fake);
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
    return this.#handle(fake);
  }

  async destroy(record: VmRecord): Promise<void> {
    const fake = this.#processes.get(record.vmm.pid);
    if (fake !== undefined) await this.#end(fake, { exitCode: null, signal: "SIGKILL" });
  }

  async #hang(signal: AbortSignal | undefined): Promise<never> {
    this.#startsHanging += 1;
    try {
      return await new Promise<never>((_resolve, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
      });
    } finally {
      this.#startsHanging -= 1;
    }
  }

  #runningOf(sandboxId: string): FakeProcess | undefined {
    return [...this.#processes.values()].find((fake) => fake.spec.sandboxId === sandboxId && fake.exit === undefined);
  }

  async #end(fake: FakeProcess, how: Pick<VmExit, "exitCode" | "signal">): Promise<VmExit> {
    if (fake.exit === undefined) {
      fake.exit = { ...how, consoleTail: consoleLines(fake.console, exitConsoleLines) };
      await fake.guest?.close();
      fake.ended.resolve(fake.exit);
    }
    return fake.ended.promise;
  }

  #handle(fake: FakeProcess): Vm {
    const exited = new Deferred<VmExit>();
    let released = false;
    void fake.ended.promise.then((exit) => {
      if (!released) exited.resolve(exit);
    });
    return {
      record: fake.record,
      exited: exited.promise,
      console: async (bytesMax) => fake.console.subarray(-bytesMax),
      consoleTail: async (lines) => consoleLines(fake.console, lines),
      shutdown: () => this.#end(fake, { exitCode: 0, signal: null }),
      kill: () => this.#end(fake, { exitCode: null, signal: "SIGKILL" }),
      release: () => {
        released = true;
      },
    };
  }
}
