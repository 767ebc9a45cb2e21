import type { EventKind } from "@roost/contract";
import { SandboxState, type Sandbox } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import type { NewEvent } from "../db/events.ts";

/** What a sandbox did from an instant on, `ms` since 1970. */
export interface Phase {
  readonly state: "running" | "paused";
  readonly time: number;
}

/** What really happened on a host: the events that it tells of it, in order, and since when each sandbox ran or was paused. */
export class HostHistory {
  readonly events: NewEvent[] = [];
  readonly phases = new Map<string, Phase[]>();
  readonly #hostId: string;
  readonly #now: () => Date;
  readonly #last = new Map<string, SandboxState>();

  constructor(hostId: string, now: () => Date) {
    this.#hostId = hostId;
    this.#now = now;
  }

  changed(sandboxId: string, { state, timeStartedMs, timePausedMs }: Sandbox): void {
    const before = this.#last.get(sandboxId);
    this.#last.set(sandboxId, state);
    if (before === state) return;
    const wasSaved = this.phases.get(sandboxId)?.at(-1)?.state === "paused";
    if (state === SandboxState.PAUSED && !wasSaved) {
      this.#phase(sandboxId, "paused", timePausedMs);
      this.#tell(sandboxId, "sandbox.paused");
    }
    if (state !== SandboxState.RUNNING) return;
    if (before === undefined || before === SandboxState.CREATING) {
      this.#phase(sandboxId, "running", timeStartedMs);
      this.#tell(sandboxId, "sandbox.created");
    } else if (before === SandboxState.RESUMING) {
      if (wasSaved) this.#phase(sandboxId, "running", timeStartedMs);
      this.#tell(sandboxId, wasSaved ? "sandbox.resumed" : "sandbox.rolled_back");
    }
  }

  removed(sandboxId: string): void {
    if (this.#last.delete(sandboxId) && this.phases.has(sandboxId)) this.#tell(sandboxId, "sandbox.stopped");
  }

  #phase(sandboxId: string, state: Phase["state"], time: bigint | undefined): void {
    const known = this.phases.get(sandboxId) ?? [];
    this.phases.set(sandboxId, [...known, { state, time: Number(time ?? this.#now().getTime()) }]);
  }

  #tell(sandboxId: string, kind: EventKind): void {
    this.events.push({
      id: `${this.#hostId}-${this.events.length}`,
      hostId: this.#hostId,
      time: this.#now(),
      kind,
      sandboxId,
      template: null,
      message: kind,
      detail: {},
    });
  }
}
