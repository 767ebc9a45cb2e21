import type { PortAccess, PortPolicyInput, SandboxPort, SandboxPorts, SignedPortUrl, SignPortInput, TrafficToken } from "@roost/contract";

import type { Api } from "./api.ts";
import type { RequestOptions } from "./connection.ts";

export type SignPortOptions = RequestOptions & SignPortInput;

/** Who may reach the servers in a sandbox, and where they are. */
export class Ports {
  readonly #api: Api;
  readonly #id: string;

  constructor(api: Api, id: string) {
    this.#api = api;
    this.#id = id;
  }

  async list(options: RequestOptions = {}): Promise<SandboxPorts> {
    return this.#api.call("getPorts", { path: { id: this.#id } }, options);
  }

  /** Replaces what was said before. Connections that are not allowed any more are cut. */
  async replace(policy: PortPolicyInput, options: RequestOptions = {}): Promise<SandboxPorts> {
    return this.#api.call("setPorts", { path: { id: this.#id }, body: policy }, options);
  }

  /** Where a port is, and who may reach it. Whether something listens there is not looked at. */
  async get(port: number, options: RequestOptions = {}): Promise<SandboxPort> {
    return this.#api.call("getPort", { path: this.#path(port) }, options);
  }

  /** `null`: as the sandbox's other ports. */
  async set(port: number, access: PortAccess | null, options: RequestOptions = {}): Promise<SandboxPort> {
    return this.#api.call("setPort", { path: this.#path(port), body: { access } }, options);
  }

  /** A URL that opens the port until it expires, also in a browser. Whoever has it may use it, so it is handed out like a key. */
  async sign(port: number, options: SignPortOptions = {}): Promise<SignedPortUrl> {
    const { signal, timeoutMs, ...body } = options;
    return this.#api.call("signPort", { path: this.#path(port), body }, { signal, timeoutMs });
  }

  /** Opens all private ports, in the header that is named with it. */
  async token(options: RequestOptions = {}): Promise<TrafficToken> {
    return this.#api.call("getTrafficToken", { path: { id: this.#id } }, options);
  }

  /** The token before and all signed URLs open nothing any more. */
  async rotateToken(options: RequestOptions = {}): Promise<TrafficToken> {
    return this.#api.call("rotateTrafficToken", { path: { id: this.#id } }, options);
  }

  #path(port: number) {
    return { id: this.#id, port: String(port) };
  }
}
