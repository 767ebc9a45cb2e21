import type { ErrorCode, PlatformError } from "@roost/contract";
import { second } from "@roost/kit";

import { wasNeverSent } from "../hosts/from-connect-error.ts";

/** How long a host that refused is asked last, in `ms`: what it lacks is seldom there a moment later, and what it says of itself is renewed by then */
const recentMs = 15 * second;

/** What a host answers that makes no sandbox, where another host may: it has no room, no such template after all, or is about to end. */
const refusals: ReadonlySet<ErrorCode> = new Set(["capacity_exhausted", "host_disk_full", "shutting_down", "template_not_found"]);

/** Whether a create that failed so may be tried on another host: for certain nothing comes of it on the one that was asked. */
export function mayTryElsewhere(error: PlatformError): boolean {
  return refusals.has(error.code) || wasNeverSent(error);
}

/** Hosts that refused a sandbox a moment ago. */
export class Refusals {
  readonly #times = new Map<string, number>();

  note(hostId: string): void {
    this.#times.set(hostId, performance.now());
  }

  isRecent(hostId: string): boolean {
    const time = this.#times.get(hostId);
    if (time === undefined) return false;
    if (performance.now() - time <= recentMs) return true;
    this.#times.delete(hostId);
    return false;
  }
}
