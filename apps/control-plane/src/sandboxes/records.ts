import { PlatformError, type SandboxState } from "@roost/contract";
import { second, type Logger } from "@roost/kit";

import type { Database } from "../db/database.ts";
import type { OwnedId } from "../db/owned-id.ts";
import { applyObserved, findSandbox, findSandboxOfAnyTeam, markStopped, type ObservedSandbox, type SandboxRow } from "../db/sandboxes.ts";
import { destroyTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import { present } from "./present.ts";

/** States in which the guest that was talked to is still there. While a sandbox is saved its guest only stands still. */
const guestStays: ReadonlySet<SandboxState> = new Set(["creating", "running", "snapshotting", "pausing"]);

const isSaved: ReadonlySet<SandboxState> = new Set(["paused", "resuming"]);

export interface SandboxRecordsDependencies {
  readonly database: Database;
  readonly log: Logger;
  /** A sandbox has no VM any more, or another one */
  readonly onEnded: (sandboxId: string) => void;
  /** A sandbox's host is about to pause it, and waits for what is under way to its ports */
  readonly onPausing?: (sandboxId: string) => void;
  /** A sandbox's record says something else now; what was read of it before does not count */
  readonly onChanged?: (sandboxId: string) => void;
  /** A sandbox is about to end: what only its host knows of it is asked for now or never. Must not fail, nor take long */
  readonly onBeforeEnd?: (sandboxId: string, host: HostLink) => Promise<void>;
  /** A sandbox runs again with what ran in it before */
  readonly onResumed?: (row: SandboxRow) => void;
  /** A sandbox's time ends then, perhaps earlier than anything else's */
  readonly onExpiry?: (end: Date) => void;
  readonly now?: () => Date;
}

/**
 * The records of sandboxes. A state is written only as a host reported it (or when a host turned out to know nothing), and
 * whoever depends on a change is told of it after it was written.
 */
export class SandboxRecords {
  readonly #deps: SandboxRecordsDependencies;
  readonly #waiting = new Map<string, Set<() => void>>();

  constructor(deps: SandboxRecordsDependencies) {
    this.#deps = deps;
  }

  get #db() {
    return this.#deps.database.db;
  }

  now(): Date {
    return this.#deps.now?.() ?? new Date();
  }

  /** A team's sandbox as it is seen now: one whose end was decided is `stopping` (see ./present.ts). */
  async get(owned: OwnedId): Promise<SandboxRow> {
    return present(await this.recorded(owned), this.now());
  }

  /** A team's sandbox as its host last described it. */
  async recorded(owned: OwnedId): Promise<SandboxRow> {
    const row = await findSandbox(this.#db, owned);
    if (row === undefined || row.for_build_id !== null) throw sandboxNotFound(owned.id);
    return row;
  }

  /** As `get`, whosever it is, and also one that works for a build: for what the platform itself does. */
  async ofAnyTeam(id: string): Promise<SandboxRow> {
    const row = await findSandboxOfAnyTeam(this.#db, id);
    if (row === undefined) throw sandboxNotFound(id);
    return present(row, this.now());
  }

  /** Records what a host said; ends what depended on a VM that is no longer running. */
  async observe(observed: ObservedSandbox): Promise<void> {
    // Said by every control plane to itself, whichever of them writes it down first
    if (observed.state === "pausing") this.#deps.onPausing?.(observed.id);
    const before = observed.state === "running" ? await findSandboxOfAnyTeam(this.#db, observed.id) : undefined;
    const now = this.now();
    const applied = await applyObserved(this.#db, observed, now);
    if (applied === "stale") return this.#wake(observed.id); // another control plane may have written it down
    const { id, state, generation } = observed;
    this.#deps.log.info({ sandboxId: id, state, generation, applied }, "sandbox state");
    if (before !== undefined && before.expiry_sec > 0) {
      this.#deps.onExpiry?.(before.time_expires ?? new Date(now.getTime() + before.expiry_sec * second));
    }
    if (!guestStays.has(state)) this.#deps.onEnded(id);
    if (before !== undefined && isSaved.has(before.state)) this.resumed(await this.ofAnyTeam(id));
    this.#wake(id);
  }

  /** A host no longer has this sandbox, after it ended. Of one that another host has, it says nothing: a host is believed about its own only. */
  async observeRemoved(id: string, hostId: string): Promise<void> {
    const row = await findSandboxOfAnyTeam(this.#db, id);
    if (row?.host_id !== hostId) return;
    await this.#markStopped(id, hostId);
  }

  /** Ends a sandbox on its host, and its record. `reason`: for its log, where nobody asked for it. */
  async endOnHost(id: string, host: HostLink, reason = ""): Promise<void> {
    await this.#deps.onBeforeEnd?.(id, host);
    await host.call(() => host.client.destroySandbox({ sandboxId: id, reason }, { timeoutMs: destroyTimeoutMs }));
    await this.#markStopped(id);
  }

  /** What ran in a sandbox before, runs in this one: it was resumed, or started from another's memory. May be said more than once. */
  resumed(row: SandboxRow): void {
    if (row.state === "running" && row.start_path !== "boot") this.#deps.onResumed?.(row);
  }

  /** Nobody talks to the sandbox's guest any more: it has another one now or was ended, which the watch may not have said yet. */
  endConnections(id: string): void {
    this.#deps.onEnded(id);
  }

  /** Resolves when the record changes, or after `timeoutMs`. */
  async changed(id: string, timeoutMs: number): Promise<void> {
    const waiting = this.#waiting.get(id) ?? new Set();
    this.#waiting.set(id, waiting);
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer);
        waiting.delete(done);
        if (waiting.size === 0 && this.#waiting.get(id) === waiting) this.#waiting.delete(id);
        resolve();
      };
      const timer = setTimeout(done, timeoutMs);
      waiting.add(done);
    });
  }

  /** `hostId`: only while that host has it. */
  async #markStopped(id: string, hostId?: string): Promise<void> {
    if (await markStopped(this.#db, id, "deleted", this.now(), hostId))
      this.#deps.log.info({ sandboxId: id, state: "stopped" }, "sandbox state");
    this.#deps.onEnded(id);
    this.#wake(id);
  }

  /** Somebody wrote something into the record that no host said. */
  changedHere(id: string): void {
    this.#wake(id);
  }

  /** The same, where it may be about the time that the sandbox has. */
  written(row: SandboxRow): void {
    if (row.time_expires !== null) this.#deps.onExpiry?.(row.time_expires);
    this.changedHere(row.id);
  }

  #wake(id: string): void {
    this.#deps.onChanged?.(id);
    for (const done of this.#waiting.get(id) ?? []) done();
  }
}

function sandboxNotFound(id: string): PlatformError {
  return new PlatformError("sandbox_not_found", `there is no sandbox ${id}`);
}
