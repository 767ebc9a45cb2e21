import { PlatformError, type execStreamClientSchema, type ExecStreamServerMessage } from "@roost/contract";
import { second } from "@roost/kit";
import type { z } from "zod";

import { keepReading, newTag } from "../../guest/exec.ts";
import { signalIfRunning, stopGraceMs } from "../../guest/process-control.ts";
import { ProcessInput } from "../../guest/process-input.ts";
import { ProcessStream } from "../../guest/process-stream.ts";
import { InputQueue } from "./input-queue.ts";
import { closeCodes, type JsonSocket } from "./json-socket.ts";
import { OutputEncoder } from "./output-encoder.ts";
import type { SessionContext } from "./session.ts";

type ClientMessage = z.output<typeof execStreamClientSchema>;
type StartMessage = Extract<ClientMessage, { type: "start" }>;
export type ExecSocket = JsonSocket<ClientMessage, ExecStreamServerMessage>;

/** By how much the guest's own deadline is later than ours in `ms` */
const guestDeadlineMarginMs = 10 * second;

/**
 * `exec/stream`: one command, its output as it comes, its input as it is sent.
 *
 * When the client goes away before the command has ended: a command that was given a tag lives on (that is how one says
 * "I come back for it"), one without is ended, SIGTERM first: nobody could find it again.
 */
export async function serveExecStream(socket: ExecSocket, context: SessionContext): Promise<void> {
  const first = await socket.first();
  if (first === undefined) return;
  if (first.type !== "start") throw new PlatformError("request_invalid", 'the first message must be of type "start"');
  const tag = first.tag ?? newTag("proc");
  const stream = await ProcessStream.start(context.guest, specOf(first, tag), new AbortController().signal);
  const command = new StreamedCommand(socket, context, stream, first);
  await socket.send({ type: "start", pid: stream.pid, tag });
  await command.run();
}

function specOf(start: StartMessage, tag: string) {
  const deadline = start.timeout_sec === 0 ? {} : { guestDeadlineMs: start.timeout_sec * second + guestDeadlineMarginMs };
  return { cmd: start.cmd, args: start.args, envs: start.envs, cwd: start.cwd, user: start.user, tag, stdin: start.stdin, ...deadline };
}

class StreamedCommand {
  readonly #socket: ExecSocket;
  readonly #context: SessionContext;
  readonly #stream: ProcessStream;
  readonly #start: StartMessage;
  readonly #input: InputQueue | undefined;
  readonly #timers: NodeJS.Timeout[] = [];
  #ending: PlatformError | undefined;

  constructor(socket: ExecSocket, context: SessionContext, stream: ProcessStream, start: StartMessage) {
    this.#socket = socket;
    this.#context = context;
    this.#stream = stream;
    this.#start = start;
    if (start.stdin) {
      const input = new ProcessInput(context.guest, stream.pid, "stdin");
      // A command may end without reading all of its input; its exit code is what counts.
      this.#input = new InputQueue(input, (error) => context.log.debug({ err: error }, "standard input was not read to its end"));
    }
    if (start.timeout_sec > 0) {
      const why = new PlatformError("exec_timeout", `the command did not end within ${start.timeout_sec} s and was killed`);
      this.#timers.push(setTimeout(() => this.#endEarly(why, "SIGKILL"), Math.min(start.timeout_sec * second, 2 ** 31 - 1)));
    }
  }

  async run(): Promise<void> {
    const listening = this.#listen();
    try {
      const finished = await Promise.race([this.#forward(), listening]);
      if (finished === "client gone") return await this.#leave();
      if (this.#ending !== undefined) throw this.#ending;
      await this.#socket.send({ type: "exit", exit_code: this.#stream.exitCode ?? 0 });
      this.#socket.close(closeCodes.normal, "the command ended");
    } catch (error) {
      if (this.#stream.exitCode === undefined) await this.#leave();
      throw this.#ending ?? error;
    } finally {
      for (const timer of this.#timers) clearTimeout(timer);
      this.#input?.close();
    }
  }

  /** Output to the client, until the command's end. A client that does not read holds the command back. */
  async #forward(): Promise<"ended"> {
    const encoder = new OutputEncoder(this.#start.encoding);
    for await (const output of this.#stream) {
      for (const message of encoder.encode(output)) await this.#socket.send(message);
    }
    for (const message of encoder.end()) await this.#socket.send(message);
    return "ended";
  }

  /** Messages from the client, until it is gone. Rejects for one that is not of the protocol. */
  async #listen(): Promise<"client gone"> {
    for await (const message of this.#socket) await this.#act(message);
    return "client gone";
  }

  async #act(message: ClientMessage): Promise<void> {
    switch (message.type) {
      case "start":
        throw new PlatformError("request_invalid", "a command was started on this socket already");
      case "stdin":
        if (this.#input === undefined)
          throw new PlatformError("request_invalid", 'to send input, say `"stdin": true` in the start message');
        this.#input.push(Buffer.from(message.data, this.#start.encoding === "base64" ? "base64" : "utf8"));
        await this.#input.room();
        return;
      case "stdin_close":
        this.#input?.end();
        return;
      case "stop":
        this.#signal("SIGTERM");
        this.#timers.push(setTimeout(() => this.#signal("SIGKILL"), stopGraceMs));
        return;
      case "signal":
        this.#signal(message.signal);
    }
  }

  #endEarly(why: PlatformError, signal: "SIGTERM" | "SIGKILL"): void {
    this.#ending ??= why;
    this.#signal(signal);
  }

  #signal(signal: "SIGTERM" | "SIGKILL"): void {
    signalIfRunning(this.#context.guest, this.#stream.pid, signal).catch((error: unknown) =>
      this.#context.log.warn({ err: error, signal }, "could not signal a command"),
    );
  }

  /** The client is gone or broke the protocol. What the command still prints is dropped. */
  async #leave(): Promise<void> {
    const { guest, log } = this.#context;
    if (this.#start.tag !== undefined) {
      void keepReading(this.#stream, log);
      return;
    }
    this.#signal("SIGTERM");
    const kill = setTimeout(() => this.#signal("SIGKILL"), stopGraceMs);
    const stopWaiting = setTimeout(() => this.#stream.close(), 2 * stopGraceMs);
    guest.ended.addEventListener("abort", () => this.#stream.close(), { once: true });
    await keepReading(this.#stream, log);
    clearTimeout(kill);
    clearTimeout(stopWaiting);
  }
}
