import { PlatformError } from "@roost/contract";

import type { SandboxRow } from "../db/sandboxes.ts";
import { saveTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import type { SandboxRecords } from "./records.ts";

export interface AskParts {
  readonly records: SandboxRecords;
  readonly host: HostLink;
  /** The sandbox as whoever asks had seen it, before anybody was told that it is asked */
  readonly row: SandboxRow;
  /** Throws where it is not to be asked for once more; told the sandbox as it is now */
  readonly requireWanted: (row: SandboxRow) => Promise<void> | void;
}

/**
 * Asks a host for a change of a sandbox, based on its newest revision that is known here. The host refuses what is based on an older one, because it may be a call that its caller has given up and that
 * arrives only now. This one has not been given up: what is known may be a moment behind the host, which pauses and checkpoints by itself, or somebody else was faster. So it looks again, and asks again.
 *
 * Each refusal means that something else was done, so this ends where others do.
 */
export async function askOfNewest<Answer>(
  { records, host, row, requireWanted }: AskParts,
  rpc: (revision: bigint) => Promise<Answer>,
): Promise<Answer> {
  const end = performance.now() + saveTimeoutMs;
  let revision = row.generation;
  /** A host that says of one revision that it is the newest, and that it is old, would be asked for ever */
  let refused: number | undefined;
  for (;;) {
    try {
      return await host.call(async () => rpc(BigInt(revision)));
    } catch (error) {
      if (!(error instanceof PlatformError) || error.code !== "sandbox_changed") throw error;
      if (performance.now() >= end || revision === refused) {
        throw new PlatformError("sandbox_busy", `sandbox ${row.id} is being changed all the time; try again`, {
          cause: error,
          retryAfterSec: 1,
        });
      }
    }
    const observed = await host.getSandbox(row.id);
    if (observed === undefined) throw new PlatformError("sandbox_not_found", `the host of sandbox ${row.id} does not know it`);
    await records.observe(observed);
    await requireWanted(await records.ofAnyTeam(row.id)); // read after the revision: who takes this over from here on makes that revision an old one
    refused = revision;
    revision = observed.generation;
  }
}
