import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import { decide, errorCodeHeader, type ErrorCode, type SandboxRequest, type SandboxState as State } from "@roost/contract";
import {
  GenerationSchema,
  SandboxState,
  TemplateSchema,
  type Generation,
  type HostAgentService,
  type Sandbox,
  type SandboxSpec,
  type Template,
} from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

/** Says what a host agent says when it fails: a Connect error with a catalogue code. */
export function hostError(code: ErrorCode, message: string): ConnectError {
  return new ConnectError(message, Code.FailedPrecondition, { [errorCodeHeader]: code });
}

function stateOf(sandbox: Sandbox): State {
  return SandboxState[sandbox.state].toLowerCase() as State;
}

type SavingRpc =
  | "pauseSandbox"
  | "resumeSandbox"
  | "checkpointSandbox"
  | "rollbackSandbox"
  | "listGenerations"
  | "forkSandbox"
  | "pauseAll"
  | "createTemplate"
  | "copyTemplate"
  | "listTemplates"
  | "getTemplate"
  | "deleteTemplate";

/** What the images need of the host they are on. */
export interface FakeMachine {
  readonly sandboxes: Map<string, Sandbox>;
  /** Throws when there is none, or when nothing can be reached */
  find(sandboxId: string): Sandbox;
  change(sandboxId: string, state: SandboxState, more?: Partial<Sandbox>): Sandbox;
  add(spec: Partial<SandboxSpec> & { readonly sandboxId: string }, state: SandboxState): Sandbox;
  /** `ms` since 1970 */
  now(): number;
  /** What takes time; throws when the host agent was killed meanwhile */
  work(gate: Promise<void> | undefined): Promise<void>;
  /** One thing after the other of what is asked of a sandbox, as its loop does */
  inTurn<Result>(sandboxId: string, act: () => Promise<Result>): Promise<Result>;
}

const baseTemplate = create(TemplateSchema, {
  name: "base",
  kind: "base",
  digest: `sha256:${"0".repeat(64)}`,
  diskSizeMib: 2048,
  hasMemory: true,
});

/** Generations, templates and the RPCs about them, of a host agent without a host. */
export class FakeImages {
  readonly templates = new Map<string, Template>([["base", baseTemplate]]);
  readonly generations = new Map<string, Generation[]>();
  /** How often each RPC was called */
  readonly calls = new Map<SavingRpc, number>();
  /** What the next call of an RPC answers instead of doing it */
  readonly failures = new Map<SavingRpc, ConnectError>();
  /** What calls of an RPC wait for while the sandbox changes */
  readonly gates = new Map<SavingRpc, Promise<void>>();
  /** Children of the next fork that fail, by position */
  readonly failingChildren = new Map<number, { readonly code: ErrorCode; readonly message: string }>();
  /** Requests to resume that were not a user's */
  automaticResumes = 0;
  readonly #machine: FakeMachine;
  readonly #resuming = new Map<string, Promise<Sandbox>>();

  constructor(machine: FakeMachine) {
    this.#machine = machine;
  }

  /** A new generation, current from now on. */
  save(sandboxId: string, kind: string, hasMemory: boolean): Generation {
    const known = this.generations.get(sandboxId) ?? [];
    const made = create(GenerationSchema, {
      number: (known[0]?.number ?? 0) + 1,
      kind,
      hasMemory,
      timeCreatedMs: BigInt(this.#machine.now()),
      sizeBytes: 4096n,
      isCurrent: true,
    });
    for (const generation of known) generation.isCurrent = false;
    this.generations.set(sandboxId, [made, ...known]);
    return made;
  }

  /** Pauses as the host does by itself when nobody uses a sandbox. */
  pause(sandboxId: string, { hasMemory = true, kind = "pause" } = {}): Sandbox {
    const { number } = this.save(sandboxId, kind, hasMemory);
    return this.#machine.change(sandboxId, SandboxState.PAUSED, {
      currentGeneration: number,
      hasMemory,
      timePausedMs: BigInt(this.#machine.now()),
    });
  }

  #resume(sandboxId: string, memory: boolean): Sandbox {
    const sandbox = this.#machine.find(sandboxId);
    delete sandbox.timePausedMs;
    delete sandbox.failureReason;
    const timeStartedMs = BigInt(this.#machine.now());
    return this.#machine.change(sandboxId, SandboxState.RUNNING, { startPath: memory ? "restore" : "boot", timeStartedMs });
  }

  #allow(sandboxId: string, request: SandboxRequest): "accept" | "ignore" {
    const state = stateOf(this.#machine.find(sandboxId));
    const decision = decide(state, request);
    if (decision.kind === "deny") throw hostError("sandbox_wrong_state", `the sandbox is ${state}: ${decision.reason}`);
    return decision.kind;
  }

  /** As a host agent does: refuses what is based on an older revision, and counts what is so already. */
  admit(sandboxId: string, revision: bigint | undefined, request?: SandboxRequest): void {
    const sandbox = this.#machine.find(sandboxId);
    if (sandbox.transit !== undefined) {
      if (request?.kind === "pause") return;
      throw hostError("sandbox_busy", "the sandbox is being moved to another host");
    }
    if (revision === undefined) return;
    const isSo = request !== undefined && decide(stateOf(sandbox), request).kind === "ignore";
    if (isSo) this.#machine.change(sandboxId, sandbox.state);
    else if (revision < sandbox.generation) throw hostError("sandbox_changed", `the sandbox is at revision ${sandbox.generation}`);
  }

  #begin(rpc: SavingRpc): void {
    this.calls.set(rpc, (this.calls.get(rpc) ?? 0) + 1);
    const failure = this.failures.get(rpc);
    this.failures.delete(rpc);
    if (failure !== undefined) throw failure;
  }

  service(): Pick<ServiceImpl<typeof HostAgentService>, SavingRpc> {
    const machine = this.#machine;
    const copy = (sandbox: Sandbox) => ({ sandbox: structuredClone(sandbox) });
    return {
      pauseSandbox: async ({ sandboxId, memory, revision }) =>
        machine.inTurn(sandboxId, async () => {
          this.admit(sandboxId, revision, { kind: "pause" });
          if (this.#allow(sandboxId, { kind: "pause" }) === "ignore") return copy(machine.find(sandboxId));
          machine.change(sandboxId, SandboxState.PAUSING);
          try {
            this.#begin("pauseSandbox");
          } catch (error) {
            machine.change(sandboxId, SandboxState.RUNNING);
            throw error;
          }
          await machine.work(this.gates.get("pauseSandbox"));
          return copy(this.pause(sandboxId, { hasMemory: memory ?? true }));
        }),
      resumeSandbox: async ({ sandboxId, memory, timeoutSec, automatic, revision }) =>
        machine.inTurn(sandboxId, async () => {
          this.admit(sandboxId, revision, timeoutSec === undefined ? { kind: "resume", memory: memory ?? true } : undefined);
          if (automatic) this.automaticResumes += 1;
          const sandbox = machine.find(sandboxId);
          if (this.#allow(sandboxId, { kind: "resume", memory: memory ?? true }) === "ignore") {
            return copy((await this.#resuming.get(sandboxId)) ?? sandbox);
          }
          this.#begin("resumeSandbox");
          const resuming = (async () => {
            machine.change(sandboxId, SandboxState.RESUMING);
            await machine.work(this.gates.get("resumeSandbox"));
            if (timeoutSec !== undefined && sandbox.spec !== undefined) sandbox.spec.timeoutSec = timeoutSec;
            return this.#resume(sandboxId, (memory ?? true) && sandbox.hasMemory);
          })();
          this.#resuming.set(sandboxId, resuming);
          return copy(await resuming.finally(() => this.#resuming.get(sandboxId) === resuming && this.#resuming.delete(sandboxId)));
        }),
      checkpointSandbox: async ({ sandboxId, revision }) =>
        machine.inTurn(sandboxId, async () => {
          this.admit(sandboxId, revision);
          this.#allow(sandboxId, { kind: "checkpoint" });
          this.#begin("checkpointSandbox");
          machine.change(sandboxId, SandboxState.SNAPSHOTTING);
          await machine.work(this.gates.get("checkpointSandbox"));
          const generation = this.save(sandboxId, "checkpoint", true);
          const sandbox = machine.change(sandboxId, SandboxState.RUNNING, { currentGeneration: generation.number, hasMemory: true });
          return { ...copy(sandbox), generation };
        }),
      rollbackSandbox: async ({ sandboxId, generation, revision }) =>
        machine.inTurn(sandboxId, async () => {
          this.admit(sandboxId, revision);
          this.#allow(sandboxId, { kind: "rollback" });
          this.#begin("rollbackSandbox");
          const known = this.generations.get(sandboxId) ?? [];
          const wanted = known.find(({ number }) => number === generation);
          if (wanted === undefined) throw hostError("generation_not_found", `there is no generation ${generation}`);
          for (const each of known) each.isCurrent = each === wanted;
          machine.change(sandboxId, SandboxState.RESUMING, { currentGeneration: generation, hasMemory: wanted.hasMemory });
          await machine.work(this.gates.get("rollbackSandbox"));
          return copy(this.#resume(sandboxId, wanted.hasMemory));
        }),
      listGenerations: ({ sandboxId }) => {
        machine.find(sandboxId);
        return { generations: this.generations.get(sandboxId) ?? [] };
      },
      forkSandbox: async ({ sandboxId, children }) =>
        machine.inTurn(sandboxId, async () => {
          this.#allow(sandboxId, { kind: "fork" });
          this.#begin("forkSandbox");
          const { spec } = machine.find(sandboxId);
          await machine.work(this.gates.get("forkSandbox"));
          const outcomes = children.map((child, index) => {
            const failing = this.failingChildren.get(index);
            if (failing !== undefined) {
              const failure = { sandboxId: child.sandboxId, ...failing };
              return { outcome: { case: "failure" as const, value: failure } };
            }
            const present = machine.sandboxes.get(child.sandboxId);
            if (present !== undefined) return { outcome: { case: "sandbox" as const, value: structuredClone(present) } };
            machine.add({ ...spec, sandboxId: child.sandboxId, accessToken: child.accessToken }, SandboxState.CREATING);
            const sandbox = machine.change(child.sandboxId, SandboxState.RUNNING, { startPath: "restore" });
            return { outcome: { case: "sandbox" as const, value: structuredClone(sandbox) } };
          });
          this.failingChildren.clear();
          return { outcomes };
        }),
      pauseAll: () => {
        this.#begin("pauseAll");
        const running = [...machine.sandboxes.values()].filter(({ state }) => state === SandboxState.RUNNING);
        const ids = running.map(({ spec }) => spec?.sandboxId ?? "");
        for (const id of ids) this.pause(id);
        return { pausedSandboxIds: ids };
      },
      createTemplate: async ({ sandboxId, name, memory, replace, kind, defaults }) =>
        machine.inTurn(sandboxId, async () => {
          this.#allow(sandboxId, { kind: "snapshot" });
          this.#begin("createTemplate");
          const { spec } = machine.find(sandboxId);
          const present = this.templates.get(name);
          if (present !== undefined && kind === "step" && !replace) return { template: present };
          if (present !== undefined && !replace) throw hostError("snapshot_exists", `there is a template "${name}" already`);
          await machine.work(this.gates.get("createTemplate"));
          const hasMemory = memory ?? true;
          const template = create(TemplateSchema, {
            name,
            kind: kind === "" ? "snapshot" : kind,
            digest: `sha256:${"1".repeat(64)}`,
            diskSizeMib: spec?.diskSizeMib ?? 0,
            timeCreatedMs: BigInt(this.#machine.now()),
            sourceSandboxId: sandboxId,
            hasMemory,
            sizeBytes: 8192n,
            ...(hasMemory ? { vcpus: spec?.vcpus ?? 0, memoryMib: spec?.memoryMib ?? 0 } : {}),
            defaults: defaults ?? spec?.defaults ?? {},
          });
          this.templates.set(name, template);
          return { template };
        }),
      copyTemplate: async ({ from, name }) => {
        this.#begin("copyTemplate");
        const source = this.templates.get(from);
        if (source === undefined) throw hostError("snapshot_not_found", `there is no snapshot "${from}"`);
        await this.gates.get("copyTemplate");
        const template = this.templates.get(name) ?? create(TemplateSchema, { ...source, name });
        this.templates.set(name, template);
        return { template };
      },
      listTemplates: () => {
        this.#begin("listTemplates");
        return { templates: [...this.templates.values()] };
      },
      getTemplate: ({ name }) => {
        const template = this.templates.get(name);
        if (template === undefined) throw hostError("snapshot_not_found", `there is no snapshot "${name}"`);
        return { template };
      },
      deleteTemplate: ({ name }) => {
        this.#begin("deleteTemplate");
        const users = [...machine.sandboxes.values()].filter(({ spec }) => spec?.template === name).map(({ spec }) => spec?.sandboxId);
        if (users.length > 0) throw hostError("snapshot_in_use", `snapshot "${name}" is used by ${users.join(", ")}`);
        this.templates.delete(name);
        return {};
      },
    };
  }
}
