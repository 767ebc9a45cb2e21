import type { Logger } from "@roost/kit";

import type { RecordStore } from "./record-store.ts";
import type { SandboxRecord } from "./sandbox-record.ts";
import type { Watchers } from "./watchers.ts";

export interface ChangeOptions {
  /** Whether others see a difference: only then does the change count. Default: yes */
  readonly visible?: boolean;
}

/**
 * The one place where a sandbox's record changes. Durable first, then visible: whoever hears of a state may rely on it being
 * there after a crash. Each visible change counts the revision up, is logged when the state differs, and is told to the watchers.
 */
export class RecordKeeper {
  readonly #store: RecordStore;
  readonly #watchers: Watchers<SandboxRecord>;
  readonly #log: Logger;
  #record: SandboxRecord;
  #lastSave: Promise<unknown> = Promise.resolve();

  constructor(options: {
    readonly record: SandboxRecord;
    readonly store: RecordStore;
    readonly watchers: Watchers<SandboxRecord>;
    readonly log: Logger;
  }) {
    this.#record = options.record;
    this.#store = options.store;
    this.#watchers = options.watchers;
    this.#log = options.log;
  }

  get current(): SandboxRecord {
    return this.#record;
  }

  /** Makes the first record durable, unless its folder came with it, and tells the watchers. */
  async begin(options: { readonly isRecorded?: boolean } = {}): Promise<void> {
    if (options.isRecorded !== true) await this.#store.create(this.#record);
    this.#publish();
  }

  /** Saves run one after the other: each patches what the one before left. */
  async save(patch: Partial<SandboxRecord>, options: ChangeOptions = {}): Promise<void> {
    const saved = this.#lastSave.then(async () => {
      const next = this.#patched(patch, options);
      await this.#store.write(next);
      this.#set(next, options);
    });
    this.#lastSave = saved.catch(() => undefined); // the next save writes the whole record: it must not wait for this one's luck
    return saved;
  }

  /** For changes that have happened whether or not they can be written down. */
  async saveAnyway(patch: Partial<SandboxRecord>, options: ChangeOptions = {}): Promise<void> {
    await this.save(patch, options).catch((error: unknown) => {
      this.#log.error(
        { err: error, state: patch.state },
        "a sandbox's record could not be written; a restart of the host agent will find an older one",
      );
      this.apply(patch, options);
    });
  }

  /** Only in memory, for what is about to be forgotten. */
  apply(patch: Partial<SandboxRecord>, options: ChangeOptions = {}): void {
    this.#set(this.#patched(patch, options), options);
  }

  #patched(patch: Partial<SandboxRecord>, { visible = true }: ChangeOptions): SandboxRecord {
    return { ...this.#record, ...patch, revision: this.#record.revision + (visible ? 1 : 0) };
  }

  #set(next: SandboxRecord, { visible = true }: ChangeOptions): void {
    const from = this.#record.state;
    this.#record = next;
    if (next.state !== from) this.#log.info({ from, state: next.state, revision: next.revision }, `sandbox is ${next.state}`);
    if (visible) this.#publish();
  }

  #publish(): void {
    this.#watchers.publish({ kind: "sandbox", view: this.#record });
  }

  // Beside the record: courtesies whose loss changes nothing

  async saveLastActive(timeMs: number): Promise<void> {
    await this.#store
      .writeLastActive(this.#record.spec.sandboxId, timeMs)
      .catch((error: unknown) => this.#log.warn({ err: error }, "the instant of last activity could not be written"));
  }

  async keepConsole(console: Buffer | undefined): Promise<void> {
    if (console === undefined) return;
    await this.#store
      .writeConsole(this.#record.spec.sandboxId, console)
      .catch((error: unknown) => this.#log.warn({ err: error }, "the console of a failed sandbox could not be kept"));
  }
}
