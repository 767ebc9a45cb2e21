import { hostResumesSandboxes, hostTakesSandboxes, type HostState, type SeenHostState } from "@roost/contract";

/** What is recorded of a host, as this control plane read it last, at most a second ago. */
export interface HostStanding {
  readonly state: HostState;
  /** The team that alone gets sandboxes on it; null: all */
  readonly teamId: string | null;
  readonly tags: readonly string[];
  /** Until then it is reachable; null: nobody knows yet */
  readonly timeLeaseEnds: Date | null;
}

/** Of a host of which nothing was read yet. */
export const unknownStanding: HostStanding = { state: "ready", teamId: null, tags: [], timeLeaseEnds: null };

export function isReachable({ timeLeaseEnds }: Pick<HostStanding, "timeLeaseEnds">, now: Date): boolean {
  return timeLeaseEnds === null || timeLeaseEnds > now;
}

export function seenState(standing: HostStanding, now: Date): SeenHostState {
  return isReachable(standing, now) ? standing.state : "unreachable";
}

export function takesSandboxes(standing: HostStanding, now: Date): boolean {
  return hostTakesSandboxes(standing.state) && isReachable(standing, now);
}

export function resumesSandboxes(standing: HostStanding): boolean {
  return hostResumesSandboxes(standing.state);
}
