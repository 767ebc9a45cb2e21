import { randomUUID } from "node:crypto";
import { connect } from "node:net";
import type { Duplex } from "node:stream";

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createRouterTransport, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import {
  EventSchema,
  HostAgentService,
  SandboxSchema,
  SandboxState,
  WatchSandboxesResponse_SyncedSchema,
  type Event,
  type GetLogsRequest,
  type LogEntrySchema,
  type MetricPointSchema,
  type Sandbox,
  type SandboxSpec,
  type WatchSandboxesResponse,
} from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { guestAgentPort, memoryMibDefault, PlatformError, vcpusDefault, type GuestTunnels } from "@roost/contract";

import type { HostDependency } from "../hosts/host-link.ts";
import { FakeImages, hostError } from "./fake-images.ts";
import { FakeMoves } from "./fake-moves.ts";
import { FakeImports } from "./fake-imports.ts";

export { hostError };

/** States in which the fake guest answers */
const reachable: ReadonlySet<SandboxState> = new Set([SandboxState.RUNNING, SandboxState.SNAPSHOTTING]);
/** States in which what talks to the guest may go on */
const connected: ReadonlySet<SandboxState> = new Set([...reachable, SandboxState.PAUSING]);

/** A host agent without a host: sandboxes are entries in a map, and all guests are one process's port. */
export class FakeHost implements HostDependency {
  readonly id: string;
  readonly sandboxes = new Map<string, Sandbox>();
  /** Generations and templates */
  readonly images: FakeImages;
  readonly imports: FakeImports;
  readonly moves: FakeMoves;
  readonly transport: HostDependency["transport"];
  readonly tunnels: GuestTunnels;
  readonly destroyed: string[] = [];
  readonly happened: Event[] = [];
  /** What its watchers said they had heard last */
  readonly heardBefore: string[] = [];
  readonly openTunnels = new Set<Duplex>();
  /** Other ports of guests than the guest agent's: ports of this machine */
  readonly ports = new Map<number, number>();
  pingCount = 0;
  /** Tunnels opened so far */
  tunnelCount = 0;
  /** What `CreateSandbox` waits for, when set. */
  createGate: Promise<void> | undefined;
  /** What the next create answers instead of a sandbox. */
  createFailure: ConnectError | undefined;
  /** What `GetLogs` answers, also for sandboxes that are gone; without it: of no sandbox */
  readonly logs = new Map<string, MessageInitShape<typeof LogEntrySchema>[]>();
  readonly logsAsked: GetLogsRequest[] = [];
  /** What `GetMetrics` answers */
  metricPoints: MessageInitShape<typeof MetricPointSchema>[] = [
    { timeUnixSec: 1n, cpuPercent: 12.5, memoryBytes: 100n, memoryCacheBytes: 50n, diskBytes: 200n },
  ];
  readonly service: ServiceImpl<typeof HostAgentService>;
  /** What it can hold: by default more than any test that is not about that asks for */
  size = { cpuCount: 2, memoryLimitMib: 1_048_576, sandboxCountMax: 64, diskTotalBytes: 1n << 40n, diskFreeBytes: 1n << 39n };
  /** Whether every call fails as when the host cannot be reached. */
  isUnreachable = false;
  /** Called when a listing was made and before it is answered. */
  afterListing: (() => Promise<void>) | undefined;
  readonly #watchers = new Set<(event: WatchSandboxesResponse["event"] | "cut") => void>();
  /** What everything that takes time waits for besides, when set: it is done one after the other for each sandbox then, as host agents do it */
  takes: (() => Promise<void>) | undefined;
  readonly #aborted = new Set<string>();
  readonly #turns = new Map<string, Promise<unknown>>();
  readonly #now: () => number;
  /** How often its agent was killed */
  #crashes = 0;
  /** What creates in flight wait for */
  readonly #creating = new Map<string, Promise<void>>();

  constructor(id: string, guestPort: () => number, now: () => number = Date.now) {
    this.id = id;
    this.#now = now;
    this.images = new FakeImages({
      sandboxes: this.sandboxes,
      find: (sandboxId) => this.#find(sandboxId),
      change: (sandboxId, state, more) => this.change(sandboxId, state, more),
      add: (spec, state) => this.add(spec, state),
      now,
      work: async (gate) => this.#work(gate),
      inTurn: async (sandboxId, act) => this.#inTurn(sandboxId, act),
    });
    this.moves = new FakeMoves({
      sandboxes: this.sandboxes,
      images: this.images,
      find: (sandboxId) => this.#find(sandboxId),
      reach: () => this.#reach(),
      change: (sandboxId, state, more) => this.change(sandboxId, state, more),
      remove: (sandboxId) => this.#remove(sandboxId),
      work: async (gate) => this.#work(gate),
      inTurn: async (sandboxId, act) => this.#inTurn(sandboxId, act),
    });
    this.imports = new FakeImports(this.images.templates);
    this.service = this.#service();
    this.transport = createRouterTransport((router) => {
      router.service(HostAgentService, this.service);
    });
    this.tunnels = {
      connect: async (sandboxId, port) => {
        const sandbox = this.sandboxes.get(sandboxId);
        if (sandbox === undefined) throw new PlatformError("sandbox_not_found", `there is no sandbox ${sandboxId}`);
        if (!reachable.has(sandbox.state)) throw new PlatformError("sandbox_wrong_state", `sandbox ${sandboxId} is not running`);
        const local = port === guestAgentPort ? guestPort() : this.ports.get(port);
        if (local === undefined) throw new PlatformError("guest_unreachable", "nothing listens there");
        const socket = connect(local, "127.0.0.1");
        await new Promise((resolve, reject) => {
          socket.once("connect", resolve);
          socket.once("error", () => reject(new PlatformError("guest_unreachable", "the guest agent cannot be reached")));
        });
        this.openTunnels.add(socket);
        this.tunnelCount += 1;
        socket.once("close", () => this.openTunnels.delete(socket));
        return socket;
      },
    };
  }

  /** Changes a sandbox as its loop would: a new generation, told to watchers. */
  change(sandboxId: string, state: SandboxState, more: Partial<Sandbox> = {}): Sandbox {
    const sandbox = this.sandboxes.get(sandboxId);
    if (sandbox === undefined) throw new Error(`no sandbox ${sandboxId}`);
    sandbox.state = state;
    sandbox.generation += 1n;
    Object.assign(sandbox, more);
    if (!connected.has(state)) for (const tunnel of this.openTunnels) tunnel.destroy();
    this.tell({ case: "sandbox", value: structuredClone(sandbox) });
    return sandbox;
  }

  add(spec: Partial<SandboxSpec> & { readonly sandboxId: string }, state = SandboxState.RUNNING): Sandbox {
    const now = BigInt(this.#now());
    const sandbox = create(SandboxSchema, {
      spec: { template: "base", vcpus: 1, memoryMib: 512, diskSizeMib: 1024, timeoutSec: 1800, accessToken: "token", ...(spec as object) },
      state,
      generation: 1n,
      timeCreatedMs: now,
      timeStartedMs: now,
      timeLastActiveMs: now,
      versions: { kernel: "6.1", vmm: "fake" },
    });
    this.sandboxes.set(spec.sandboxId, sandbox);
    return sandbox;
  }

  /** Does what a host agent does that is killed and starts again: what it was at is undone. `isSaved`: pauses had come so far that they are done. Answers which those are. */
  crash({ isSaved = false }: { readonly isSaved?: boolean } = {}): { readonly id: string }[] {
    this.#crashes += 1;
    this.#turns.clear();
    this.#aborted.clear();
    this.moves.crash();
    const paused: { readonly id: string }[] = [];
    for (const [id, { state, timePausedMs }] of this.sandboxes) {
      if (state === SandboxState.CREATING)
        this.change(id, SandboxState.FAILED, { failureReason: "the host agent ended while it was being created" });
      else if (state === SandboxState.PAUSING && isSaved) {
        this.images.pause(id);
        paused.push({ id });
      } else if (state === SandboxState.PAUSING || state === SandboxState.SNAPSHOTTING) this.change(id, SandboxState.RUNNING);
      else if (state === SandboxState.RESUMING) this.change(id, SandboxState.PAUSED, { timePausedMs: timePausedMs ?? BigInt(this.#now()) });
    }
    return paused;
  }

  /** Pauses a sandbox that nobody has used for long, if it runs. */
  async pauseOfItself(sandboxId: string): Promise<void> {
    await this.#inTurn(sandboxId, async () => {
      if (this.sandboxes.get(sandboxId)?.state === SandboxState.RUNNING) this.images.pause(sandboxId);
    });
  }

  /** Its VM ends without being asked to: the sandbox is back at its last generation. Nothing is done to one that does not run, or has none of its own. */
  async loseVm(sandboxId: string): Promise<void> {
    await this.#inTurn(sandboxId, async () => {
      const sandbox = this.sandboxes.get(sandboxId);
      const generation = this.images.generations.get(sandboxId)?.find(({ isCurrent }) => isCurrent);
      if (sandbox?.state !== SandboxState.RUNNING || generation === undefined) return;
      const { number: currentGeneration, hasMemory } = generation;
      this.change(sandboxId, SandboxState.PAUSED, { currentGeneration, hasMemory, timePausedMs: BigInt(this.#now()) });
    });
  }

  /** Makes the checkpoint of a sandbox that is due, if it runs. */
  async checkpointOfItself(sandboxId: string): Promise<void> {
    await this.#inTurn(sandboxId, async () => {
      if (this.sandboxes.get(sandboxId)?.state !== SandboxState.RUNNING) return;
      const { number } = this.images.save(sandboxId, "checkpoint", true);
      this.change(sandboxId, SandboxState.RUNNING, { currentGeneration: number, hasMemory: true });
    });
  }

  /** Ends a sandbox without anybody being told. */
  forget(sandboxId: string): void {
    this.sandboxes.delete(sandboxId);
  }

  tell(event: WatchSandboxesResponse["event"]): void {
    for (const watcher of this.#watchers) watcher(event);
  }

  /** Something happens: watchers are told, and those who come later too. */
  happen(event: Partial<Event>): void {
    const full = create(EventSchema, { eventId: randomUUID(), timeMs: BigInt(this.#now()), ...(event as object) });
    this.happened.push(full);
    this.tell({ case: "happened", value: full });
  }

  /** Ends every watch, as a broken connection does. */
  cutWatches(): void {
    for (const watcher of this.#watchers) watcher("cut");
  }

  get watcherCount(): number {
    return this.#watchers.size;
  }

  #requireAlive(crashes: number): void {
    if (crashes !== this.#crashes) throw new ConnectError("the host agent ended", Code.Unavailable);
  }

  async #work(gate: Promise<void> | undefined): Promise<void> {
    const crashes = this.#crashes;
    await gate;
    await this.takes?.();
    this.#requireAlive(crashes);
  }

  async #inTurn<Result>(sandboxId: string, act: () => Promise<Result>): Promise<Result> {
    if (this.takes === undefined) return act();
    const crashes = this.#crashes;
    const before = this.#turns.get(sandboxId) ?? Promise.resolve();
    const turn = before.then(async () => {
      this.#requireAlive(crashes);
      return act();
    });
    this.#turns.set(
      sandboxId,
      turn.catch(() => undefined), // the next one has nothing to do with it
    );
    return turn;
  }

  #reach(): void {
    if (this.isUnreachable) throw new ConnectError("connection refused", Code.Unavailable);
  }

  #find(sandboxId: string): Sandbox {
    this.#reach();
    const sandbox = this.sandboxes.get(sandboxId);
    if (sandbox === undefined) throw hostError("sandbox_not_found", `there is no sandbox ${sandboxId}`);
    return sandbox;
  }

  #destroy(sandboxId: string): Record<string, never> {
    if (this.sandboxes.has(sandboxId)) {
      this.change(sandboxId, SandboxState.STOPPING, { stopReason: "deleted" });
      this.#remove(sandboxId);
    }
    return {};
  }

  #remove(sandboxId: string): void {
    this.sandboxes.delete(sandboxId);
    this.tell({ case: "removedSandboxId", value: sandboxId });
  }

  async *#watch(context: HandlerContext): AsyncGenerator<{ event: WatchSandboxesResponse["event"] }> {
    this.#reach();
    const queue: (WatchSandboxesResponse["event"] | "cut")[] = [...this.sandboxes.values()].map((sandbox) => ({
      case: "sandbox" as const,
      value: structuredClone(sandbox),
    }));
    for (const event of this.happened) queue.push({ case: "happened", value: event });
    queue.push({ case: "synced", value: create(WatchSandboxesResponse_SyncedSchema) });
    let wake = () => {};
    const watcher = (event: WatchSandboxesResponse["event"] | "cut") => {
      queue.push(event);
      wake();
    };
    this.#watchers.add(watcher);
    context.signal.addEventListener("abort", () => watcher("cut"), { once: true });
    try {
      for (;;) {
        const event = queue.shift();
        if (event === "cut") throw new ConnectError("cut", Code.Unavailable);
        if (event !== undefined) {
          yield { event };
          continue;
        }
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    } finally {
      this.#watchers.delete(watcher);
    }
  }

  #service(): ServiceImpl<typeof HostAgentService> {
    return {
      ...this.images.service(),
      ...this.imports.service(),
      ...this.moves.service(),
      getHost: () => {
        this.#reach();
        return {
          hostId: this.id,
          agentVersion: "0.1.0",
          vmm: "fake",
          memoryMib: 4096,
          memoryFreeMib: 2048,
          ...this.size,
          sandboxCount: this.sandboxes.size,
          templates: [...this.images.templates.values()],
        };
      },
      createSandbox: async ({ spec }) => {
        this.#reach();
        if (spec === undefined) throw new Error("no spec");
        if (this.createFailure !== undefined) {
          const failure = this.createFailure;
          this.createFailure = undefined;
          throw failure;
        }
        const template = this.images.templates.get(spec.template);
        if (template === undefined) throw hostError("template_not_found", `there is no template "${spec.template}"`);
        const isFixed = template.vcpus > 0;
        if (
          isFixed &&
          ((spec.vcpus || template.vcpus) !== template.vcpus || (spec.memoryMib || template.memoryMib) !== template.memoryMib)
        ) {
          throw hostError("template_size_fixed", `"${template.name}" has ${template.vcpus} vCPU and ${template.memoryMib} MiB`);
        }
        const present = this.sandboxes.get(spec.sandboxId);
        if (present !== undefined) {
          if (present.state === SandboxState.CREATING) await this.#creating.get(spec.sandboxId);
          const { state } = present;
          if (state === SandboxState.RUNNING) return { sandbox: structuredClone(present) };
          throw hostError("sandbox_exists", `a sandbox with this id exists and is ${SandboxState[state]}`);
        }
        if (template.defaults !== undefined) spec.defaults ??= template.defaults;
        spec.vcpus ||= template.vcpus || vcpusDefault;
        spec.memoryMib ||= template.memoryMib || memoryMibDefault;
        const sandbox = this.add(spec, SandboxState.CREATING);
        this.tell({ case: "sandbox", value: structuredClone(sandbox) });
        const made = this.#work(this.createGate);
        this.#creating.set(
          spec.sandboxId,
          made.catch(() => undefined), // whoever joins sees what came of it
        );
        await made.finally(() => this.#creating.delete(spec.sandboxId));
        if (this.#aborted.delete(spec.sandboxId)) throw hostError("create_aborted", "deleted while it was being created");
        if (this.sandboxes.get(spec.sandboxId)?.state === SandboxState.FAILED)
          throw new ConnectError("the host agent ended", Code.Unavailable);
        const startPath = template.hasMemory ? "restore" : "boot";
        const timeStartedMs = BigInt(this.#now());
        return { sandbox: structuredClone(this.change(spec.sandboxId, SandboxState.RUNNING, { startPath, timeStartedMs })) };
      },
      destroySandbox: ({ sandboxId }) => {
        this.#reach();
        this.destroyed.push(sandboxId);
        if (this.sandboxes.get(sandboxId)?.state !== SandboxState.CREATING) {
          return this.#inTurn(sandboxId, async () => this.#destroy(sandboxId));
        }
        this.#aborted.add(sandboxId);
        return this.#destroy(sandboxId);
      },
      getSandbox: ({ sandboxId }) => ({ sandbox: structuredClone(this.#find(sandboxId)) }),
      listSandboxes: async () => {
        this.#reach();
        const sandboxes = [...this.sandboxes.values()].map((sandbox) => structuredClone(sandbox));
        await this.afterListing?.();
        return { sandboxes };
      },
      watchSandboxes: ({ lastEventId }, context) => {
        this.heardBefore.push(lastEventId);
        return this.#watch(context);
      },
      pingSandbox: ({ sandboxId }) => {
        const sandbox = this.#find(sandboxId);
        if (!reachable.has(sandbox.state)) throw hostError("sandbox_wrong_state", `sandbox ${sandboxId} is not running`);
        this.pingCount += 1;
        sandbox.timeLastActiveMs = BigInt(this.#now());
        return {};
      },
      setTimeout: ({ sandboxId, timeoutSec, revision }) => {
        this.images.admit(sandboxId, revision);
        const sandbox = this.#find(sandboxId);
        if (sandbox.spec !== undefined) sandbox.spec.timeoutSec = timeoutSec;
        return { sandbox: structuredClone(this.change(sandboxId, sandbox.state)) };
      },
      setNetwork: ({ sandboxId, network, revision }) => {
        this.images.admit(sandboxId, revision);
        const sandbox = this.#find(sandboxId);
        if (sandbox.spec !== undefined && network !== undefined) sandbox.spec.network = network;
        return { sandbox: structuredClone(this.change(sandboxId, sandbox.state)) };
      },
      getMetrics: ({ sandboxId }) => {
        this.#find(sandboxId);
        return {
          points: this.metricPoints,
          memoryTotalBytes: 1000n,
          diskTotalBytes: 2000n,
        };
      },
      getLogs: (request) => {
        const { sandboxId } = request;
        this.logsAsked.push(request);
        const entries = this.logs.get(sandboxId);
        if (entries === undefined) this.#find(sandboxId);
        return { entries: entries ?? [] };
      },
      getConsole: ({ sandboxId, bytesMax }) => {
        this.#find(sandboxId);
        return { data: Buffer.from("Linux version 6.1\nlogin: ".slice(-bytesMax)) };
      },
    };
  }
}
