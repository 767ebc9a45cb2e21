import { open } from "node:fs/promises";
import { connect as connectSocket, type Socket } from "node:net";
import { basename, dirname } from "node:path";

import { DeadlineError, Deferred, KiB, second } from "@roost/kit";

/** Longest line QEMU may send in `bytes`: real answers stay below 64 KiB; a longer one means a broken or hostile VMM. */
const lineBytesMax = 512 * KiB;
/** Commands that wait for their answer at once; more is a bug of ours. */
const pendingCommandsMax = 64;
/** Default deadline of one command in `ms`; QEMU answers within milliseconds unless its host is starved. */
const commandTimeoutMs = 10 * second;

/** QEMU refused a command. `errorClass` is QMP's, such as `GenericError` or `CommandNotFound`. */
export class QmpError extends Error {
  override readonly name = "QmpError";
  readonly errorClass: string;

  constructor(command: string, errorClass: string, description: string) {
    super(`QMP ${command}: ${description}`);
    this.errorClass = errorClass;
  }
}

/** The connection ended, or what came over it was not QMP. */
export class QmpConnectionError extends Error {
  override readonly name = "QmpConnectionError";
  /** The peer broke the protocol, rather than just ending the connection */
  readonly violation: boolean;

  constructor(message: string, options: { readonly violation: boolean; readonly cause?: unknown }) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.violation = options.violation;
  }
}

export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

interface PendingCommand {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

/**
 * QEMU's control protocol: one JSON object a line, over a unix socket (QEMU serves one client at a time).
 *
 * The other end is a process that a guest may have taken over. Lines are bounded, anything that is not QMP ends the
 * connection, and answers are `unknown` until the caller has looked at them.
 */
export class QmpClient {
  /** Gets what QEMU tells unasked. */
  onEvent: (event: QmpEvent) => void = () => undefined;
  readonly #socket: Socket;
  readonly #pending = new Map<number, PendingCommand>();
  readonly #greeting = new Deferred<void>();
  readonly #closed = new Deferred<QmpConnectionError>();
  #lineParts: Buffer[] = [];
  #lineBytes = 0;
  #greeted = false;
  #nextId = 1;
  #failure: QmpConnectionError | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#greeting.promise.catch(() => undefined); // whoever waits gets it; nobody need wait
    socket.on("data", (chunk: Buffer) => this.#receive(chunk));
    socket.on("error", (error) => this.#fail(new QmpConnectionError("the QMP connection failed", { violation: false, cause: error })));
    socket.on("close", () => this.#fail(new QmpConnectionError("the QMP connection ended", { violation: false })));
  }

  /** Connects and negotiates. Rejects when the socket is not there or does not speak QMP within `timeoutMs`. */
  static async connect(path: string, options: { readonly timeoutMs?: number } = {}): Promise<QmpClient> {
    const client = await openSocket(path, (socket) => new QmpClient(socket));
    const timeoutMs = options.timeoutMs ?? commandTimeoutMs;
    const timer = setTimeout(() => {
      client.#fail(new QmpConnectionError(`no QMP greeting within ${timeoutMs} ms`, { violation: true }));
    }, timeoutMs);
    try {
      await client.#greeting.promise;
      await client.execute("qmp_capabilities", {}, { timeoutMs });
      return client;
    } catch (error) {
      client.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Resolves, with the reason, when the connection is over. */
  get closed(): Promise<QmpConnectionError> {
    return this.#closed.promise;
  }

  /** The command's return value, as QEMU sent it. Rejects with `QmpError`, `QmpConnectionError` or `DeadlineError`. */
  async execute(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    options: { readonly timeoutMs?: number } = {},
  ): Promise<unknown> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#pending.size >= pendingCommandsMax) throw new Error(`QMP ${command}: ${pendingCommandsMax} commands wait already`);
    const id = this.#nextId++;
    const timeoutMs = options.timeoutMs ?? commandTimeoutMs;
    return new Promise<unknown>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id); // its answer may still come, and is ignored then
        reject(new DeadlineError(`QMP ${command}`, timeoutMs));
      }, timeoutMs);
      this.#pending.set(id, { command, resolve, reject, timer });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  }

  /** Ends the connection; QEMU goes on and serves the next client. */
  close(): void {
    this.#fail(new QmpConnectionError("the QMP connection was closed", { violation: false }));
  }

  #fail(error: QmpConnectionError): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#socket.destroy();
    this.#lineParts = [];
    this.#greeting.reject(error);
    for (const pending of this.#pending.values()) {
      clearTimeout(pending.timer);
      pending.reject(error);
    }
    this.#pending.clear();
    this.#closed.resolve(error);
  }

  #receive(chunk: Buffer): void {
    let start = 0;
    for (let end = chunk.indexOf(10); end !== -1 && this.#failure === undefined; end = chunk.indexOf(10, start)) {
      this.#lineParts.push(chunk.subarray(start, end));
      const line = Buffer.concat(this.#lineParts).toString("utf8").trim();
      this.#lineParts = [];
      this.#lineBytes = 0;
      start = end + 1;
      if (line !== "") this.#receiveLine(line);
    }
    if (this.#failure !== undefined) return;
    this.#lineParts.push(chunk.subarray(start));
    this.#lineBytes += chunk.length - start;
    if (this.#lineBytes > lineBytesMax) {
      this.#fail(new QmpConnectionError(`a QMP line is longer than ${lineBytesMax} bytes`, { violation: true }));
    }
  }

  #receiveLine(line: string): void {
    const message = parseObject(line);
    if (message === undefined) {
      this.#fail(new QmpConnectionError(`not QMP: ${JSON.stringify(line.slice(0, 80))}`, { violation: true }));
    } else if ("QMP" in message) {
      this.#greeted = true;
      this.#greeting.resolve();
    } else if (!this.#greeted) {
      this.#fail(new QmpConnectionError("QMP began without its greeting", { violation: true }));
    } else if (typeof message["event"] === "string") {
      this.onEvent({ event: message["event"], data: isObject(message["data"]) ? message["data"] : {} });
    } else {
      this.#receiveAnswer(message);
    }
  }

  #receiveAnswer(message: Readonly<Record<string, unknown>>): void {
    const id = message["id"];
    const pending = typeof id === "number" ? this.#pending.get(id) : undefined;
    if (typeof id !== "number" || pending === undefined) return; // late answer to a command whose deadline passed
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    if ("return" in message) {
      pending.resolve(message["return"]);
      return;
    }
    const error = isObject(message["error"]) ? message["error"] : {};
    const { class: errorClass, desc } = error;
    const isText = typeof errorClass === "string" && typeof desc === "string";
    pending.reject(new QmpError(pending.command, isText ? errorClass : "unknown", isText ? desc : "refused without a reason"));
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parseObject(line: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined; // the caller ends the connection and shows the line
  }
}

/**
 * Connects through the open folder, so that the length of the state folder's path does not matter: the kernel takes
 * at most 107 bytes as the path of a socket. `adopt` gets the socket in the very moment it is connected: when the VMM ends
 * just then, somebody must be listening for errors already.
 */
async function openSocket<T>(path: string, adopt: (socket: Socket) => T): Promise<T> {
  await using folder = await open(dirname(path), "r");
  return await new Promise<T>((resolve, reject) => {
    const socket = connectSocket(`/proc/self/fd/${folder.fd}/${basename(path)}`);
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      resolve(adopt(socket));
    });
  });
}
