import type { CreateSnapshotInput, Snapshot } from "@roost/contract";

import type { Api } from "./api.ts";
import { savingTimeoutMs, type RequestOptions } from "./connection.ts";

export type CreateSnapshotOptions = RequestOptions & Pick<CreateSnapshotInput, "memory">;

/** Templates made from sandboxes; a sandbox is created from one by its name. */
export class Snapshots {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  /** From a sandbox that runs (it goes on) or is paused (it stays so). `memory: false` takes its disk alone. */
  async create(sandboxId: string, name: string, options: CreateSnapshotOptions = {}): Promise<Snapshot> {
    const { signal, timeoutMs, ...rest } = options;
    const body = { sandbox_id: sandboxId, name, ...rest };
    return this.#api.call("createSnapshot", { body }, savingTimeoutMs({ signal, timeoutMs }));
  }

  /** By name. */
  async list(options: RequestOptions = {}): Promise<Snapshot[]> {
    return (await this.#api.call("listSnapshots", {}, options)).snapshots;
  }

  async get(name: string, options: RequestOptions = {}): Promise<Snapshot> {
    return this.#api.call("getSnapshot", { path: { name } }, options);
  }

  /** Refused while sandboxes of it exist. */
  async delete(name: string, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("deleteSnapshot", { path: { name } }, savingTimeoutMs(options));
  }
}
