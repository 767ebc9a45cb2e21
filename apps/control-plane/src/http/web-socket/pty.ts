import { PlatformError, type ptyClientSchema, type PtyServerMessage } from "@roost/contract";
import type { z } from "zod";

import { newTag } from "../../guest/exec.ts";
import { resizeTerminal, signalIfRunning } from "../../guest/process-control.ts";
import { ProcessInput } from "../../guest/process-input.ts";
import { ProcessStream } from "../../guest/process-stream.ts";
import { toPlatformError } from "../errors.ts";
import { InputQueue } from "./input-queue.ts";
import { closeCodes, pingIntervalMs, type JsonSocket } from "./json-socket.ts";
import type { SessionContext } from "./session.ts";

type ClientMessage = z.output<typeof ptyClientSchema>;
export type PtySocket = JsonSocket<ClientMessage, PtyServerMessage>;

/** Bytes of output in one message */
const messageBytesMax = 64 * 1024;

/** `pty`: a terminal. Going away leaves it alive for somebody to `connect` to; while nobody is there it is no activity. */
export async function servePty(socket: PtySocket, context: SessionContext): Promise<void> {
  const first = await socket.first();
  if (first === undefined) return;
  const { stream, tag } = await open(first, context, socket.closed);
  const input = new InputQueue(new ProcessInput(context.guest, stream.pid, "pty"), (error) => {
    const { code, message } = toPlatformError(error);
    void socket.send({ type: "error", code, data: message, fatal: false });
  });
  const pinger = setInterval(() => void socket.send({ type: "ping" }), pingIntervalMs);
  try {
    await socket.send({ type: "started", tag, pid: stream.pid });
    const finished = await Promise.race([forward(stream, socket), listen(socket, stream, input, context)]);
    if (finished === "client gone") return;
    await socket.send({ type: "exit", exit_code: stream.exitCode ?? 0 });
    socket.close(closeCodes.normal, "the terminal's process ended");
  } finally {
    clearInterval(pinger);
    input.close();
    stream.close();
  }
}

async function open(first: ClientMessage, context: SessionContext, signal: AbortSignal) {
  switch (first.type) {
    case "start": {
      const tag = first.tag ?? newTag("pty");
      const spec = { ...first, cwd: first.cwd, user: first.user, tag, stdin: true, terminal: { cols: first.cols, rows: first.rows } };
      return { stream: await ProcessStream.start(context.guest, spec, new AbortController().signal), tag };
    }
    case "connect":
      return { stream: await ProcessStream.connect(context.guest, { tag: first.tag }, signal), tag: first.tag };
    case "input":
    case "resize":
    case "kill":
      throw new PlatformError("request_invalid", 'the first message must be of type "start" or "connect"');
  }
}

async function forward(stream: ProcessStream, socket: PtySocket): Promise<"ended"> {
  for await (const output of stream) {
    for (let offset = 0; offset < output.data.length; offset += messageBytesMax) {
      const piece = Buffer.from(output.data.subarray(offset, offset + messageBytesMax));
      await socket.send({ type: "output", data: piece.toString("base64") });
    }
  }
  return "ended";
}

async function listen(socket: PtySocket, stream: ProcessStream, input: InputQueue, context: SessionContext): Promise<"client gone"> {
  for await (const message of socket) {
    switch (message.type) {
      case "start":
      case "connect":
        throw new PlatformError("request_invalid", "this socket has its terminal already");
      case "input":
        input.push(Buffer.from(message.data, "base64"));
        await input.room();
        break;
      case "resize":
        await resizeTerminal(context.guest, stream.pid, { cols: message.cols, rows: message.rows }).catch(async (error: unknown) => {
          const { code, message: data } = toPlatformError(error);
          await socket.send({ type: "error", code, data, fatal: false });
        });
        break;
      case "kill":
        await signalIfRunning(context.guest, stream.pid, "SIGKILL");
    }
  }
  return "client gone";
}
