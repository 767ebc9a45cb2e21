import { second } from "@roost/kit";

import type { SandboxRow } from "../db/sandboxes.ts";

/**
 * How long a record is taken for what it was in `ms`. Changes by this process are told (`forget`); this bounds what another control plane on
 * the same database did: it changed a token, or ended a sandbox whose guest still answers.
 */
const ageMsMax = 0.5 * second;
/** Records kept; the one read first makes room */
const recordsMax = 1_024;

interface Entry {
  readonly reading: Promise<SandboxRow | undefined>;
  readonly time: number;
}

/** Records of sandboxes as they were a moment ago, so that not each request to a guest costs a query. One query serves all who wait for it. */
export class SandboxCache {
  readonly #find: (id: string) => Promise<SandboxRow | undefined>;
  readonly #entries = new Map<string, Entry>();

  constructor(find: (id: string) => Promise<SandboxRow | undefined>) {
    this.#find = find;
  }

  /** May be up to `ageMsMax` old: good enough to go ahead, not to refuse. */
  async recent(id: string): Promise<SandboxRow | undefined> {
    const known = this.#entries.get(id);
    return known !== undefined && performance.now() - known.time <= ageMsMax ? known.reading : this.fresh(id);
  }

  /** As it is now. */
  async fresh(id: string): Promise<SandboxRow | undefined> {
    const entry = { reading: this.#find(id), time: performance.now() };
    this.#entries.delete(id);
    this.#entries.set(id, entry);
    if (this.#entries.size > recordsMax) this.#entries.delete(this.#entries.keys().next().value ?? id);
    const row = await entry.reading.catch((error: unknown) => {
      this.#forgetEntry(id, entry);
      throw error;
    });
    if (row === undefined) this.#forgetEntry(id, entry);
    return row;
  }

  /** The record has changed, or its VM has. */
  forget(id: string): void {
    this.#entries.delete(id);
  }

  #forgetEntry(id: string, entry: Entry): void {
    if (this.#entries.get(id) === entry) this.#entries.delete(id);
  }
}
