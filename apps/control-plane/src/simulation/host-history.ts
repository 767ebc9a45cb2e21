import type { EventKind } from "@roost/contract";
import { SandboxState, type Sandbox } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import type { NewEvent } from "../db/events.ts";

/** What a sandbox did from an instant on, `ms` since 1970. */
export interface Phase {
  readonly state: "running" | "paused";
  readonly time: number;
}

/**
 * What really happened on a host: the events that it tells, in order, and since when each sandbox ran or was paused. One that is moved here brings its phases along; that it was moved
 * is not the host's to tell.
 */
export class HostHistory {
  readonly events: NewEvent[] = [];
  readonly phases = new Map<string, readonly Phase[]>();
  readonly #hostId: string;
  readonly #now: () => Date;
  readonly #last = new Map<string, Pick<Sandbox, "state" | "transit">>();
  /** Sandboxes that were moved away: what happened to them here before is told, too */
  readonly #left = new Set<string>();
  /** Where the events of sandboxes begin that came from elsewhere: an earlier one of that id was a create that was given up */
  readonly #begins = new Map<string, number>();

  constructor(hostId: string, now: () => Date) {
    this.#hostId = hostId;
    this.#now = now;
  }

  /** `before`: the phases of a sandbox that comes from elsewhere. */
  changed(sandboxId: string, { state, transit, timeStartedMs, timePausedMs }: Sandbox, before: () => readonly Phase[]): void {
    const last = this.#last.get(sandboxId);
    this.#last.set(sandboxId, transit === undefined ? { state } : { state, transit });
    if (last === undefined && transit?.arriving === true) {
      this.phases.set(sandboxId, before());
      if (!this.#left.has(sandboxId)) this.#begins.set(sandboxId, this.events.length);
      return;
    }
    if (last?.state === state) return;
    const wasSaved = this.phases.get(sandboxId)?.at(-1)?.state === "paused";
    if (state === SandboxState.PAUSED && !wasSaved) {
      this.#phase(sandboxId, "paused", timePausedMs);
      this.#tell(sandboxId, "sandbox.paused");
    }
    if (state !== SandboxState.RUNNING) return;
    if (last === undefined || last.state === SandboxState.CREATING) {
      this.#phase(sandboxId, "running", timeStartedMs);
      this.#tell(sandboxId, "sandbox.created");
    } else if (last.state === SandboxState.RESUMING) {
      if (wasSaved) this.#phase(sandboxId, "running", timeStartedMs);
      this.#tell(sandboxId, wasSaved ? "sandbox.resumed" : "sandbox.rolled_back");
    }
  }

  removed(sandboxId: string): void {
    if (this.#last.delete(sandboxId) && this.phases.has(sandboxId)) this.#tell(sandboxId, "sandbox.stopped");
  }

  /** It is elsewhere: moved away, or it had come and does not stay. */
  left(sandboxId: string): void {
    if (this.#last.get(sandboxId)?.transit?.arriving !== true) this.#left.add(sandboxId);
    this.#last.delete(sandboxId);
  }

  get leftCount(): number {
    return this.#left.size;
  }

  /** What it has to have told of a sandbox that is its own, or was until it was moved away. */
  eventsOf(sandboxId: string, { isOwn }: { readonly isOwn: boolean }): readonly NewEvent[] {
    if (!isOwn && !this.#left.has(sandboxId)) return [];
    return this.events.slice(this.#begins.get(sandboxId)).filter((event) => event.sandboxId === sandboxId);
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
