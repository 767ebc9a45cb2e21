import { randomUUID } from "node:crypto";

import {
  decide,
  type CreateSnapshotBody,
  type Event,
  type EventKind,
  type ForkSandboxBody,
  type Generation,
  type Sandbox,
  type SandboxRequest,
  type Snapshot,
} from "@roost/contract";

import { FakeError, type FakeHandlers } from "./fake-call.ts";

/** A sandbox as far as saving it goes. */
export interface SavableSandbox {
  record: Sandbox;
  readonly generations: Generation[];
}

export interface SavableSandboxes<Kept extends SavableSandbox> {
  get(id: string): Kept;
  list(): Sandbox[];
  create(body: Partial<Sandbox>): Promise<Kept>;
}

/** Generations, snapshots and events of sandboxes that are only folders: what is saved is that they were. */
export class LocalSaving<Kept extends SavableSandbox> {
  readonly snapshots = new Map<string, Snapshot>();
  readonly events: Event[] = [];
  /** Children of the next fork that fail, by position */
  readonly failingChildren = new Map<number, FakeError>();
  readonly #sandboxes: SavableSandboxes<Kept>;
  readonly #followers = new Set<(event: Event) => void>();

  constructor(sandboxes: SavableSandboxes<Kept>) {
    this.#sandboxes = sandboxes;
  }

  happen(kind: EventKind, sandboxId: string | null, message: string): void {
    const event: Event = {
      id: randomUUID(),
      position: this.events.length + 1,
      time: new Date().toISOString(),
      kind,
      subject: { kind: sandboxId === null ? "host" : "sandbox", id: sandboxId ?? "local" },
      actor: { kind: "host", id: "local", name: "local" },
      sandbox_id: sandboxId,
      template: null,
      message,
      detail: {},
    };
    this.events.unshift(event);
    for (const follow of this.#followers) follow(event);
  }

  /** A sandbox whose guest can be talked to; resumed where it may be. */
  usable(id: string): Kept {
    const sandbox = this.#sandboxes.get(id);
    if (sandbox.record.state === "paused" && sandbox.record.auto_resume) this.#resume(sandbox, "sandbox.auto_resumed");
    this.#allow(sandbox, { kind: "use" });
    return sandbox;
  }

  pause(id: string, memory = true): Sandbox {
    const sandbox = this.#sandboxes.get(id);
    if (this.#allow(sandbox, { kind: "pause" }) === "ignore") return sandbox.record;
    this.#save(sandbox, "pause", memory);
    sandbox.record = { ...sandbox.record, state: "paused", paused_at: new Date().toISOString() };
    this.happen("sandbox.paused", id, "paused");
    return sandbox.record;
  }

  #resume(sandbox: Kept, kind: EventKind, memory = true): void {
    const startPath = memory && sandbox.record.has_memory ? "restore" : "boot";
    sandbox.record = { ...sandbox.record, state: "running", paused_at: null, failure_reason: null, start_path: startPath };
    this.happen(kind, sandbox.record.id, "resumed");
  }

  #save(sandbox: Kept, kind: string, memory: boolean): Generation {
    const generation: Generation = {
      number: (sandbox.generations[0]?.number ?? 0) + 1,
      kind,
      created_at: new Date().toISOString(),
      has_memory: memory,
      size_bytes: 4_194_304,
      is_current: true,
    };
    for (const each of sandbox.generations) each.is_current = false;
    sandbox.generations.unshift(generation);
    sandbox.record = { ...sandbox.record, current_generation: generation.number, has_memory: memory };
    return generation;
  }

  #allow({ record }: Kept, request: SandboxRequest): "accept" | "ignore" {
    const decision = decide(record.state, request);
    if (decision.kind === "deny") throw new FakeError("sandbox_wrong_state", `sandbox ${record.id} is ${record.state}: ${decision.reason}`);
    return decision.kind;
  }

  #snapshot(name: string): Snapshot {
    const snapshot = this.snapshots.get(name);
    if (snapshot === undefined) throw new FakeError("snapshot_not_found", `there is no snapshot "${name}"`);
    return snapshot;
  }

  handlers(): FakeHandlers["http"] {
    const idOf = (call: { readonly parameters: Readonly<Record<string, string>> }) => call.parameters["id"] ?? "";
    const nameOf = (call: { readonly parameters: Readonly<Record<string, string>> }) => call.parameters["name"] ?? "";
    return {
      pauseSandbox: (call) => this.pause(idOf(call), (call.body as { memory: boolean }).memory),
      resumeSandbox: (call) => {
        const body = call.body as { memory: boolean; timeout_sec?: number };
        const sandbox = this.#sandboxes.get(idOf(call));
        if (this.#allow(sandbox, { kind: "resume", memory: body.memory }) === "accept")
          this.#resume(sandbox, "sandbox.resumed", body.memory);
        if (body.timeout_sec !== undefined) sandbox.record = { ...sandbox.record, timeout_sec: body.timeout_sec };
        return sandbox.record;
      },
      checkpointSandbox: (call) => {
        const sandbox = this.#sandboxes.get(idOf(call));
        this.#allow(sandbox, { kind: "checkpoint" });
        const generation = this.#save(sandbox, "checkpoint", true);
        return { sandbox: sandbox.record, generation };
      },
      rollbackSandbox: (call) => {
        const sandbox = this.#sandboxes.get(idOf(call));
        const { generation: number } = call.body as { generation: number };
        this.#allow(sandbox, { kind: "rollback" });
        const generation = sandbox.generations.find((each) => each.number === number);
        if (generation === undefined) throw new FakeError("generation_not_found", `sandbox ${idOf(call)} has no generation ${number}`);
        for (const each of sandbox.generations) each.is_current = each === generation;
        sandbox.record = { ...sandbox.record, current_generation: number, has_memory: generation.has_memory };
        this.#resume(sandbox, "sandbox.rolled_back");
        return sandbox.record;
      },
      listGenerations: (call) => ({ sandbox_id: idOf(call), generations: this.#sandboxes.get(idOf(call)).generations }),
      forkSandbox: async (call) => {
        const parent = this.#sandboxes.get(idOf(call));
        const { count, metadata } = call.body as ForkSandboxBody;
        this.#allow(parent, { kind: "fork" });
        const results: unknown[] = [];
        for (let index = 0; index < count; index += 1) {
          const failure = this.failingChildren.get(index);
          if (failure === undefined) {
            const child = await this.#sandboxes.create({ ...parent.record, metadata: metadata ?? parent.record.metadata });
            results.push({ sandbox: child.record });
          } else results.push({ error: { code: failure.code, message: failure.message } });
        }
        this.failingChildren.clear();
        return { results };
      },
      createSnapshot: (call) => {
        const { sandbox_id: sandboxId, name, memory } = call.body as CreateSnapshotBody;
        const sandbox = this.#sandboxes.get(sandboxId);
        this.#allow(sandbox, { kind: "snapshot" });
        if (name === "base" || this.snapshots.has(name)) throw new FakeError("snapshot_exists", `"${name}" is taken`);
        const snapshot: Snapshot = {
          name,
          created_at: new Date().toISOString(),
          source_sandbox_id: sandboxId,
          has_memory: memory,
          vcpus: memory ? sandbox.record.vcpus : null,
          memory_mb: memory ? sandbox.record.memory_mb : null,
          disk_mb: sandbox.record.disk_mb,
          size_bytes: 12_582_912,
          digest: `sha256:${"1".repeat(64)}`,
        };
        this.snapshots.set(name, snapshot);
        return snapshot;
      },
      listSnapshots: () => ({ snapshots: [...this.snapshots.values()].sort((a, b) => (a.name < b.name ? -1 : 1)) }),
      getSnapshot: (call) => this.#snapshot(nameOf(call)),
      deleteSnapshot: (call) => {
        const { name } = this.#snapshot(nameOf(call));
        const users = this.#sandboxes.list().filter(({ template }) => template === name);
        if (users.length > 0)
          throw new FakeError("snapshot_in_use", `snapshot "${name}" is used by ${users.map(({ id }) => id).join(", ")}`);
        this.snapshots.delete(name);
      },
      followEvents: async ({ query, response }) => {
        const sandboxId = query.get("sandbox_id");
        const position = Number(query.get("after") ?? this.events.length);
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.write(`id: ${position}\nevent: position\ndata: {"position":${position}}\n\n`);
        const tell = (event: Event) => {
          if (sandboxId !== null && event.sandbox_id !== sandboxId) return;
          response.write(`id: ${event.position}\ndata: ${JSON.stringify(event)}\n\n`);
        };
        for (const event of this.events.toReversed()) if ((event.position ?? 0) > position) tell(event);
        this.#followers.add(tell);
        await new Promise((resolve) => response.once("close", resolve));
        this.#followers.delete(tell);
      },
      listEvents: (call) => {
        const sandboxId = call.query.get("sandbox_id");
        const start = Number(call.query.get("cursor") ?? 0);
        const end = start + Number(call.query.get("limit") ?? 100);
        const matching = this.events.filter((event) => sandboxId === null || event.sandbox_id === sandboxId);
        return { events: matching.slice(start, end), next_cursor: end < matching.length ? String(end) : null };
      },
    };
  }
}
