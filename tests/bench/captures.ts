import type { EventKind } from "@roost/contract";
import { MiB, poll } from "@roost/kit";
import type { RoostClient } from "@roost/sdk";

/** Time an event may take from the host to the list of events in `ms`. */
const eventTimeoutMs = 10_000;

/** What a host tells of one pause, checkpoint or fork. */
export interface CaptureFacts {
  /** Memory that differs from what the guest's memory began as, in `MiB` */
  readonly changedMib: number;
  /** Bytes of the diff per changed byte */
  readonly writtenRatio: number;
  /** Diff in `bytes` */
  readonly writtenBytes: number;
  /** For how long the guest stood still in `ms`; NaN for a pause, after which it does not go on */
  readonly guestStoppedMs: number;
}

/** The captures of one kind that a sandbox has gone through, oldest first; waits until there are this many. */
export async function capturesOf(client: RoostClient, sandboxId: string, kind: EventKind, count: number): Promise<CaptureFacts[]> {
  return poll({ what: `${count} events ${kind} of ${sandboxId}`, timeoutMs: eventTimeoutMs, intervalMs: 20 }, async () => {
    const found: CaptureFacts[] = [];
    for await (const event of client.events.list({ sandboxId })) {
      if (event.kind === kind) found.unshift(factsOf(event.detail));
    }
    return found.length >= count ? found : undefined;
  });
}

function factsOf(detail: Readonly<Record<string, string>>): CaptureFacts {
  const changedBytes = Number(detail["changed_bytes"]);
  const writtenBytes = Number(detail["written_bytes"]);
  return {
    changedMib: changedBytes / MiB,
    writtenBytes,
    writtenRatio: writtenBytes / changedBytes,
    guestStoppedMs: Number(detail["guest_stopped_ms"]),
  };
}
