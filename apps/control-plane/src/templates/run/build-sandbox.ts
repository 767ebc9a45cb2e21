import type { Guests } from "../../guest/guests.ts";
import type { HostLink } from "../../hosts/host-link.ts";
import type { Sandboxes } from "../../sandboxes/sandboxes.ts";
import { minute, nap, second, type Logger } from "@roost/kit";

import { BuildGuest } from "./build-guest.ts";
import { isPassing } from "./failures.ts";
import type { Guest } from "../../guest/guest.ts";

/** How long a build waits for room or for its host to come back, in `ms` */
const patienceMs = 3 * minute;
/** Wait between two tries in `ms` */
const retryMs = 2 * second;

export interface BuildSandboxes {
  readonly sandboxes: Pick<Sandboxes, "createForBuild" | "deleteForBuild">;
  readonly guests: Pick<Guests, "of">;
  readonly teamId: string;
  readonly buildId: string;
  readonly host: HostLink;
  /** Of what is made from disks; templates with memory have their own */
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly signal: AbortSignal;
  readonly log: Logger;
}

/** A hidden sandbox in which a build works. */
export interface BuildSandbox {
  readonly id: string;
  readonly guest: Guest;
  readonly inside: BuildGuest;
}

/** Runs `use` with a sandbox made from a template of the build's host. Nothing of it remains, whatever happens. */
export async function withSandbox<Result>(
  parts: BuildSandboxes,
  hostTemplate: string,
  use: (sandbox: BuildSandbox) => Promise<Result>,
): Promise<Result> {
  const { sandboxes, guests, signal, log } = parts;
  const row = await patiently(signal, log, () => create(parts, hostTemplate));
  try {
    const guest = guests.of(row);
    return await use({ id: row.id, guest, inside: new BuildGuest({ guest, signal, log: log.child({ sandboxId: row.id }) }) });
  } finally {
    await sandboxes
      .deleteForBuild(row.id)
      .catch((error: unknown) =>
        log.warn({ err: error, sandboxId: row.id }, "a build's sandbox is still on its host; the reconciler ends it"),
      );
  }
}

async function create({ sandboxes, host, teamId, buildId, vcpus, memoryMib, signal }: BuildSandboxes, hostTemplate: string) {
  const { templates } = await host.describe();
  const fixed = templates.find(({ name, vcpus: own }) => name === hostTemplate && own > 0);
  const sizes = fixed === undefined ? { vcpus, memoryMib } : { vcpus: fixed.vcpus, memoryMib: fixed.memory_mib };
  return sandboxes.createForBuild({ teamId, buildId, hostId: host.id, hostTemplate, ...sizes }, signal);
}

/** Tries again what failed for want of room, or because the host restarts. */
export async function patiently<Result>(signal: AbortSignal, log: Logger, work: () => Promise<Result>): Promise<Result> {
  const end = performance.now() + patienceMs;
  for (;;) {
    try {
      signal.throwIfAborted();
      return await work();
    } catch (error) {
      signal.throwIfAborted();
      if (!isPassing(error) || performance.now() > end) throw error;
      log.info({ err: error }, "a build waits for its host");
      await nap(retryMs, signal);
    }
  }
}
