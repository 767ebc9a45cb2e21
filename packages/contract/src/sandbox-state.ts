/**
 * The life of a sandbox, as control plane, host agent, SDK and dashboard all see it.
 *
 *            create                pause               (saved)
 *      ┌─ creating ──▶ running ──────────▶ pausing ──────────▶ paused
 *      │     │          │ ▲ ▲                 │ (could not)       │
 *      │     │          │ │ └─────────────────┘                   │ resume
 *      │     │          │ └──────────────────────── resuming ◀────┘
 *      │     │          │ snapshot ▲ (done)                │ (could not: back to paused)
 *      │     │          └──▶ snapshotting ──▶ running or paused, as before
 *      │     │
 *      │     │ stop: from every state but stopped        vm-lost: from every state with a VM
 *      │     ▼                                             ▼
 *      │  stopping ──▶ stopped (end)                     failed ──stop──▶ stopping
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
  | { readonly kind: "resume" }
  | { readonly kind: "snapshot" }
  /** exec, files, terminals, ports: whatever talks to the guest */
  | { readonly kind: "use" };

/** What happened to a sandbox. */
export type SandboxEvent =
  /** the change that was under way (creating, pausing, resuming, stopping) is complete */
  | { readonly kind: "completed" }
  /** the change that was under way failed and was rolled back */
  | { readonly kind: "rolled-back" }
  /** the snapshot ended, well or not; `from` is the state it was taken in */
  | { readonly kind: "snapshot-ended"; readonly from: "running" | "paused" }
  /** the VM ended without being asked to */
  | { readonly kind: "vm-lost" };

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
  if (state === "failed") return deny("has-failed");
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
      if (state === "running" || state === "paused") return accept("snapshotting");
      return deny("change-in-progress");
    case "use":
      if (state === "running") return ignore;
      return deny(state === "paused" ? "not-running" : "change-in-progress");
  }
}

/** The state after something happened; undefined when it cannot happen in this state (a late or repeated report). */
export function advance(state: SandboxState, event: SandboxEvent): SandboxState | undefined {
  switch (event.kind) {
    case "completed":
      return completed[state];
    case "rolled-back":
      return rolledBack[state];
    case "snapshot-ended":
      return state === "snapshotting" ? event.from : undefined;
    case "vm-lost":
      return sandboxHasVm(state) ? "failed" : undefined;
  }
}

const completed: Partial<Record<SandboxState, SandboxState>> = {
  creating: "running",
  pausing: "paused",
  resuming: "running",
  stopping: "stopped",
};
/** A create that failed leaves a failed sandbox to read the reason from. */
const rolledBack: Partial<Record<SandboxState, SandboxState>> = { creating: "failed", pausing: "running", resuming: "paused" };

/** States in which a VM process may exist that is ours to watch. `stopping` is not one: there its end is the plan. */
const statesWithVm = ["creating", "running", "pausing", "resuming", "snapshotting"] as const satisfies readonly SandboxState[];

export function sandboxHasVm(state: SandboxState): boolean {
  return (statesWithVm as readonly SandboxState[]).includes(state);
}

/** In which states an action is offered; server, CLI and dashboard all read this. */
export const sandboxActions = {
  use: ["running"],
  pause: ["running"],
  resume: ["paused"],
  snapshot: ["running", "paused"],
  stop: ["creating", "running", "pausing", "paused", "resuming", "snapshotting", "failed"],
} as const satisfies Record<SandboxRequest["kind"], readonly SandboxState[]>;

export function sandboxCan(action: keyof typeof sandboxActions, state: SandboxState): boolean {
  return (sandboxActions[action] as readonly SandboxState[]).includes(state);
}
