import { endpoints, type Process } from "@roost/contract";

import type { Api } from "./api.ts";
import type { RequestOptions } from "./connection.ts";
import { ExecStream } from "./exec-stream.ts";

/** Processes that were started through the API in one sandbox. A selector is a pid or a tag. */
export class Processes {
  readonly #api: Api;
  readonly #id: string;

  constructor(api: Api, id: string) {
    this.#api = api;
    this.#id = id;
  }

  async list(options: RequestOptions = {}): Promise<Process[]> {
    return (await this.#api.call("listProcesses", { path: { id: this.#id } }, options)).processes;
  }

  /** Signals the whole process group. */
  async signal(selector: number | string, signal: "SIGTERM" | "SIGKILL" = "SIGKILL", options: RequestOptions = {}): Promise<void> {
    await this.#api.call("signalProcess", { path: { id: this.#id, selector: String(selector) }, query: { signal } }, options);
  }

  /** Output of a running process from now on. Closing the stream leaves the process alone. */
  async attach(selector: number | string, options: RequestOptions = {}): Promise<ExecStream> {
    const input = { path: { id: this.#id, selector: String(selector) }, query: { encoding: "base64" } };
    return ExecStream.started(await this.#api.socket("attachProcess", endpoints.attachProcess.webSocket.server, input, options));
  }
}
