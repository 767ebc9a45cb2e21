/**
 * The life of a sandbox, as control plane, host agent, SDK and dashboard all see it.
 *
 *            create                pause               (saved)
 *      ┌─ creating ──▶ running ──────────▶ pausing ──────────▶ paused
 *      │     │          │ ▲ ▲                 │ (could not)     │ │ ▲
 *      │     │          │ │ └─────────────────┘          resume │ │ │ (could not)
 *      │     │          │ └──────────────────────── resuming ◀──┘ │ │
 *      │     │          │        rollback ────────▶  ▲  └─────────┼─┘
 *      │     │          │ snapshot, checkpoint, fork │            │
 *      │     │          └──▶ snapshotting ◀──────────┼────────────┘ snapshot, fork; each goes back to where it came from
 *      │     │                                       │
 *      │     │ stop: from every state but stopped    │ resume without memory
 *      │     ▼                                       │
 *      │  stopping ──▶ stopped (end)               failed ──stop──▶ stopping
 *
 * A VM that ends without being asked to: back to `paused` where a generation is kept (what came after it is gone), else `failed`.
 * A `failed` sandbox still has its disk: it can be started once more from that, without memory.
 *
 * Who moves what: the host agent's loop of the sandbox is the only writer. Everybody else asks (`decide`) and posts.
 * `stopped` is the only end: `failed` keeps its evidence until somebody stops (deletes) it.
 */
export const sandboxStates = [
  "creating",
  "running",
  "pausing",
  "paused",
  "resuming",
  "snapshotting",
  "stopping",
  "stopped",
  "failed",
] as const;
export type SandboxState = (typeof sandboxStates)[number];

/** What somebody asks of a sandbox. */
export type SandboxRequest =
  | { readonly kind: "stop" }
  | { readonly kind: "pause" }
  /** `memory: false`: boot from the disk, whatever memory there is */
  | { readonly kind: "resume"; readonly memory: boolean }
  /** a template from it */
  | { readonly kind: "snapshot" }
  /** a new generation of it while it runs */
  | { readonly kind: "checkpoint" }
  /** new sandboxes from it */
  | { readonly kind: "fork" }
  /** back to an earlier generation */
  | { readonly kind: "rollback" }
  /** exec, files, terminals, ports: whatever talks to the guest. `hasVm`: the sandbox has a VM even while it is snapshotting */
  | { readonly kind: "use"; readonly hasVm?: boolean };

export const sandboxRequestKinds = [
  "stop",
  "pause",
  "resume",
  "snapshot",
  "checkpoint",
  "fork",
  "rollback",
  "use",
] as const satisfies readonly SandboxRequest["kind"][];

/** What happened to a sandbox. */
export type SandboxEvent =
  /** the change that was under way (creating, pausing, resuming, stopping) is complete */
  | { readonly kind: "completed" }
  /** the change that was under way failed and was rolled back; `to` says where a resume that failed leaves the sandbox, default paused */
  | { readonly kind: "rolled-back"; readonly to?: "paused" | "failed" }
  /** the snapshot, checkpoint or fork ended, well or not; `from` is the state it was taken in */
  | { readonly kind: "snapshot-ended"; readonly from: "running" | "paused" }
  /** the VM ended without being asked to; `hasGeneration`: there is one to go back to */
  | { readonly kind: "vm-lost"; readonly hasGeneration: boolean };

export type DenialReason = "not-running" | "not-paused" | "change-in-progress" | "stop-pending" | "already-stopped" | "has-failed";

export type Decision =
  | { readonly kind: "accept"; readonly next: SandboxState }
  /** it is so already, or will be without doing anything more: succeed without acting */
  | { readonly kind: "ignore" }
  | { readonly kind: "deny"; readonly reason: DenialReason };

const accept = (next: SandboxState): Decision => ({ kind: "accept", next });
const deny = (reason: DenialReason): Decision => ({ kind: "deny", reason });
const ignore: Decision = { kind: "ignore" };

/** Decides what a request means in a state. Pure: the sandbox's loop acts, this only answers. */
export function decide(state: SandboxState, request: SandboxRequest): Decision {
  if (state === "stopping") return request.kind === "stop" ? ignore : deny("stop-pending");
  if (state === "stopped") return request.kind === "stop" ? ignore : deny("already-stopped");
  if (request.kind === "stop") return accept("stopping");
  if (state === "failed") return request.kind === "resume" && !request.memory ? accept("resuming") : deny("has-failed");
  switch (request.kind) {
    case "pause":
      if (state === "running") return accept("pausing");
      if (state === "pausing" || state === "paused") return ignore;
      return deny("change-in-progress");
    case "resume":
      if (state === "paused") return accept("resuming");
      if (state === "resuming" || state === "running") return ignore;
      return deny("change-in-progress");
    case "snapshot":
    case "fork":
      if (state === "running" || state === "paused") return accept("snapshotting");
      return deny("change-in-progress");
    case "checkpoint":
      if (state === "running") return accept("snapshotting");
      return deny(state === "paused" ? "not-running" : "change-in-progress");
    case "rollback":
      if (state === "running" || state === "paused") return accept("resuming");
      return deny("change-in-progress");
    case "use":
      if (state === "running") return ignore;
      // The guest of a running sandbox goes on while it is saved: it stands still for milliseconds only
      if (state === "snapshotting" && request.hasVm === true) return ignore;
      return deny(state === "paused" ? "not-running" : "change-in-progress");
  }
}

/** The state after something happened; undefined when it cannot happen in this state (a late or repeated report). */
export function advance(state: SandboxState, event: SandboxEvent): SandboxState | undefined {
  switch (event.kind) {
    case "completed":
      return completed[state];
    case "rolled-back":
      return state === "resuming" ? (event.to ?? "paused") : rolledBack[state];
    case "snapshot-ended":
      return state === "snapshotting" ? event.from : undefined;
    case "vm-lost":
      if (!sandboxHasVm(state)) return undefined;
      // What never ran has nothing to go back to, whatever it was to start from
      return event.hasGeneration && state !== "creating" ? "paused" : "failed";
  }
}

const completed: Partial<Record<SandboxState, SandboxState>> = {
  creating: "running",
  pausing: "paused",
  resuming: "running",
  stopping: "stopped",
};
/** A create that failed leaves a failed sandbox to read the reason from. */
const rolledBack: Partial<Record<SandboxState, SandboxState>> = { creating: "failed", pausing: "running" };

/** States in which a VM process may exist that is ours to watch. `stopping` is not one: there its end is the plan. */
const statesWithVm = ["creating", "running", "pausing", "resuming", "snapshotting"] as const satisfies readonly SandboxState[];

export function sandboxHasVm(state: SandboxState): boolean {
  return (statesWithVm as readonly SandboxState[]).includes(state);
}

/** In which states an action is offered; server, CLI and dashboard all read this. */
export const sandboxActions: Readonly<Record<SandboxRequest["kind"], readonly SandboxState[]>> = {
  use: ["running"],
  pause: ["running"],
  /** failed: without memory only */
  resume: ["paused", "failed"],
  snapshot: ["running", "paused"],
  checkpoint: ["running"],
  fork: ["running", "paused"],
  rollback: ["running", "paused"],
  stop: ["creating", "running", "pausing", "paused", "resuming", "snapshotting", "failed"],
};

export function sandboxCan(action: SandboxRequest["kind"], state: SandboxState): boolean {
  return sandboxActions[action].includes(state);
}
