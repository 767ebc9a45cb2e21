import type { CreatedHost, CreateHostInput, DrainMode, Host, HostDeletion, HostToken, UpdateHostBody } from "@roost/contract";

import type { Api } from "./api.ts";
import { savingTimeoutMs, type RequestOptions } from "./connection.ts";

/** Machines that run sandboxes. Only for admins of the platform (`hosts:read`, `hosts:write`). */
export class Hosts {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  /** By name. */
  async list(options: RequestOptions = {}): Promise<Host[]> {
    return (await this.#api.call("listHosts", {}, options)).hosts;
  }

  async get(id: string, options: RequestOptions = {}): Promise<Host> {
    return this.#api.call("getHost", { path: { host: id } }, options);
  }

  /** Announces a host. Its registration token is in this answer and never again. */
  async create(input: CreateHostInput, options: RequestOptions = {}): Promise<CreatedHost> {
    return this.#api.call("createHost", { body: input }, options);
  }

  async update(id: string, changes: UpdateHostBody, options: RequestOptions = {}): Promise<Host> {
    return this.#api.call("updateHost", { path: { host: id }, body: changes }, options);
  }

  /** A new registration token, which makes earlier ones useless. */
  async createToken(id: string, options: RequestOptions = {}): Promise<HostToken> {
    return this.#api.call("createHostToken", { path: { host: id } }, options);
  }

  /** It gets no new sandboxes; those on it go on. */
  async cordon(id: string, options: RequestOptions = {}): Promise<Host> {
    return this.#api.call("cordonHost", { path: { host: id } }, options);
  }

  async uncordon(id: string, options: RequestOptions = {}): Promise<Host> {
    return this.#api.call("uncordonHost", { path: { host: id } }, options);
  }

  /** Has what runs on it pause, or waits until it ends, or moves all that is on it to other hosts; answers at once. `drain.time_done` of the host tells the end. */
  async drain(id: string, options: RequestOptions & { readonly mode?: DrainMode } = {}): Promise<Host> {
    const { mode, ...rest } = options;
    return this.#api.call("drainHost", { path: { host: id }, body: mode === undefined ? {} : { mode } }, rest);
  }

  /** What deleting it would lose. */
  async previewDeletion(id: string, options: RequestOptions = {}): Promise<HostDeletion> {
    return this.#api.call("previewHostDeletion", { path: { host: id } }, options);
  }

  /** Refused while sandboxes are on it, unless `force`: they are lost then. */
  async delete(id: string, options: RequestOptions & { readonly force?: boolean } = {}): Promise<void> {
    const { force, ...rest } = options;
    const query = force === true ? { force: "true" } : {};
    await this.#api.call("deleteHost", { path: { host: id }, query }, savingTimeoutMs(rest));
  }
}
