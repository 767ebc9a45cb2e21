import {
  execResultSchema,
  execStartedSchema,
  execTimeoutSecDefault,
  endpoints,
  type ExecInput,
  type ExecResult,
  type ExecStarted,
  type ExecStreamClientMessage,
  type Checkpoint,
  type ForkResult,
  type ForkSandboxInput,
  type Generation,
  type Metrics,
  type MetricsRange,
  type PauseSandboxInput,
  type PtyClientMessage,
  type ResumeSandboxInput,
  type Sandbox,
  type SandboxEgress,
  type SandboxEgressInput,
} from "@roost/contract";

import type { Api } from "./api.ts";
import { savingTimeoutMs, type RequestOptions } from "./connection.ts";
import { RoostError } from "./errors.ts";
import { ExecStream } from "./exec-stream.ts";
import { Files } from "./files.ts";
import { bodyOf } from "./http.ts";
import type { MessageSocket } from "./message-socket.ts";
import { Ports } from "./ports.ts";
import { Processes } from "./processes.ts";
import { PtySession } from "./pty-session.ts";
import type { Tunnel } from "./tunnel.ts";

/** How much longer than the command the answer of a foreground exec may take in `ms`. */
const execAnswerMarginMs = 30_000;

export type ExecOptions = RequestOptions & Partial<Omit<ExecInput, "cmd" | "background">>;
export type ExecStreamOptions = RequestOptions &
  Partial<Omit<Extract<ExecStreamClientMessage, { type: "start" }>, "type" | "cmd" | "encoding">>;
export type PauseOptions = RequestOptions & PauseSandboxInput;
export type ResumeOptions = RequestOptions & ResumeSandboxInput;
export type ForkOptions = RequestOptions & Omit<ForkSandboxInput, "count">;
export type PtyOptions = RequestOptions & Partial<Omit<Extract<PtyClientMessage, { type: "start" }>, "type">>;

/** One sandbox by its id. Making a handle asks nothing of the server. */
export class SandboxHandle {
  readonly id: string;
  readonly files: Files;
  readonly processes: Processes;
  readonly ports: Ports;
  readonly #api: Api;

  constructor(api: Api, id: string) {
    this.id = id;
    this.#api = api;
    this.files = new Files(api, id);
    this.processes = new Processes(api, id);
    this.ports = new Ports(api, id);
  }

  async get(options: RequestOptions = {}): Promise<Sandbox> {
    return this.#api.call("getSandbox", { path: { id: this.id } }, options);
  }

  /** Ends the sandbox and deletes its disk. */
  async delete(options: RequestOptions = {}): Promise<void> {
    await this.#api.call("deleteSandbox", { path: { id: this.id } }, options);
  }

  /** Saves the sandbox with its memory (`memory: false`: its disk alone) and frees what it holds. Pausing a paused one succeeds. */
  async pause(options: PauseOptions = {}): Promise<Sandbox> {
    const { signal, timeoutMs, ...body } = options;
    return this.#api.call("pauseSandbox", { path: { id: this.id }, body }, savingTimeoutMs({ signal, timeoutMs }));
  }

  /** Starts the sandbox where it was paused; `memory: false` boots it from its disk. Resuming a running one succeeds. */
  async resume(options: ResumeOptions = {}): Promise<Sandbox> {
    const { signal, timeoutMs, ...body } = options;
    return this.#api.call("resumeSandbox", { path: { id: this.id }, body }, savingTimeoutMs({ signal, timeoutMs }));
  }

  /** A new generation of the running sandbox, which goes on. */
  async checkpoint(options: RequestOptions = {}): Promise<Checkpoint> {
    return this.#api.call("checkpointSandbox", { path: { id: this.id } }, savingTimeoutMs(options));
  }

  /** Back to a generation that is kept; what happened since is gone. */
  async rollback(generation: number, options: RequestOptions = {}): Promise<Sandbox> {
    return this.#api.call("rollbackSandbox", { path: { id: this.id }, body: { generation } }, savingTimeoutMs(options));
  }

  /** Newest first. */
  async generations(options: RequestOptions = {}): Promise<Generation[]> {
    return (await this.#api.call("listGenerations", { path: { id: this.id } }, options)).generations;
  }

  /** New sandboxes that go on where this one is. Each succeeds or fails by itself: look at every result. */
  async fork(count: number, options: ForkOptions = {}): Promise<ForkResult[]> {
    const { signal, timeoutMs, ...rest } = options;
    const body = { count, ...rest };
    return (await this.#api.call("forkSandbox", { path: { id: this.id }, body }, savingTimeoutMs({ signal, timeoutMs }))).results;
  }

  async ping(options: RequestOptions = {}): Promise<void> {
    await this.#api.call("pingSandbox", { path: { id: this.id } }, options);
  }

  async setTimeout(timeoutSec: number, options: RequestOptions = {}): Promise<Sandbox> {
    return this.#api.call("setSandboxTimeout", { path: { id: this.id }, body: { timeout_sec: timeoutSec } }, options);
  }

  /** What its guest may reach and use. Passwords and values of headers are not told. */
  async network(options: RequestOptions = {}): Promise<SandboxEgress> {
    return this.#api.call("getNetwork", { path: { id: this.id } }, options);
  }

  /** Replaces what its guest may reach and use. In force when this resolves; what is not allowed any more is cut. */
  async setNetwork(network: SandboxEgressInput, options: RequestOptions = {}): Promise<SandboxEgress> {
    return this.#api.call("setNetwork", { path: { id: this.id }, body: network }, options);
  }

  async metrics(range?: MetricsRange, options: RequestOptions = {}): Promise<Metrics> {
    return this.#api.call("getSandboxMetrics", { path: { id: this.id }, query: { range } }, options);
  }

  /** The newest `bytes` of the guest's console. */
  async logs(bytes?: number, options: RequestOptions = {}): Promise<Buffer> {
    const query = { bytes: bytes === undefined ? undefined : String(bytes) };
    const answer = await this.#api.raw("getSandboxLogs", { path: { id: this.id }, query }, options);
    const chunks: Buffer[] = [];
    for await (const chunk of bodyOf(answer, options.signal) as AsyncIterable<Buffer>) chunks.push(chunk);
    return Buffer.concat(chunks);
  }

  /** Runs a command to its end. An exit code other than 0 is a result, not an error. */
  async exec(cmd: string, options: ExecOptions = {}): Promise<ExecResult> {
    const { signal, timeoutMs, ...rest } = options;
    const timeoutSec = options.timeout_sec ?? execTimeoutSecDefault;
    // 0 means the command has no limit; then the answer has none but the longest a timer can wait
    const answerMs = timeoutMs ?? (timeoutSec === 0 ? 2 ** 31 - 1 : timeoutSec * 1000 + execAnswerMarginMs);
    const answer = await this.#api.call("exec", { path: { id: this.id }, body: { cmd, ...rest } }, { signal, timeoutMs: answerMs });
    return expect(execResultSchema.safeParse(answer));
  }

  /** Starts a command and answers at once; it is found again by its tag. */
  async execBackground(cmd: string, options: Omit<ExecOptions, "timeout_sec"> = {}): Promise<ExecStarted> {
    const { signal, timeoutMs, ...rest } = options;
    const body = { cmd, ...rest, background: true };
    const answer = await this.#api.call("exec", { path: { id: this.id }, body }, { signal, timeoutMs });
    return expect(execStartedSchema.safeParse(answer));
  }

  /** Runs a command whose output is iterated as it comes; `stdin: true` when input will be written. */
  async execStream(cmd: string, options: ExecStreamOptions = {}): Promise<ExecStream> {
    const { signal, timeoutMs, ...rest } = options;
    const input = { path: { id: this.id } };
    const socket = await this.#api.socket("execStream", endpoints.execStream.webSocket.server, input, { signal, timeoutMs });
    return begin(socket, { type: "start", cmd, ...rest, encoding: "base64" }, ExecStream.started);
  }

  /** Starts a program (default: a shell) in a terminal. */
  async pty(options: PtyOptions = {}): Promise<PtySession> {
    const { signal, timeoutMs, ...rest } = options;
    return begin(await this.#ptySocket({ signal, timeoutMs }), { type: "start", ...rest }, PtySession.started);
  }

  /** The terminal that runs under a tag. */
  async ptyConnect(tag: string, options: RequestOptions = {}): Promise<PtySession> {
    return begin(await this.#ptySocket(options), { type: "connect", tag }, PtySession.started);
  }

  /** A TCP connection to a port of the sandbox, also where its server listens on the loopback address only. */
  async tunnel(port: number, options: RequestOptions = {}): Promise<Tunnel> {
    return this.#api.tunnel("openTunnel", { path: { id: this.id, port: String(port) } }, savingTimeoutMs(options));
  }

  async #ptySocket(options: RequestOptions) {
    return this.#api.socket("pty", endpoints.pty.webSocket.server, { path: { id: this.id } }, options);
  }
}

/** Sends the first message and waits for its answer; whatever fails closes the socket. */
async function begin<Message, Session>(
  socket: MessageSocket<Message>,
  first: object,
  started: (socket: MessageSocket<Message>) => Promise<Session>,
): Promise<Session> {
  try {
    // The server may refuse at once and close; its error, which waits to be read, says more than the failed send.
    await socket.send(first).catch(() => undefined);
    return await started(socket);
  } catch (error) {
    socket.close();
    throw error;
  }
}

function expect<T>(parsed: { success: true; data: T } | { success: false; error: Error }): T {
  if (parsed.success) return parsed.data;
  throw new RoostError("answer_invalid", "the server answered a foreground command as a background one, or the other way round", {
    cause: parsed.error,
  });
}
