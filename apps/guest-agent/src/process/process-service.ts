import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import { Signal, type Process, type ProcessInput } from "@roost/contract/gen/process/process_pb.js";
import { withDeadline } from "@roost/kit";

import type { GuestProcess } from "./guest-process.ts";
import { selector, type ProcessStreams, type StreamCall } from "./process-streams.ts";
import type { ProcessTable } from "./process-table.ts";
import { checkSize } from "./start-request.ts";
import { toEvent } from "./stream-event.ts";

/** How long after its input broke the end of a process may become known in `ms`: reaping it, and reading what it wrote last */
const endNoticedMs = 1_000;

/** `process.Process` of the wire. */
export function createProcessService(table: ProcessTable, streams: ProcessStreams): ServiceImpl<typeof Process> {
  return {
    list() {
      const processes = table.list().map(({ config, pid, tag }) => ({
        config: {
          cmd: config.cmd,
          args: [...config.args],
          envs: { ...config.envs },
          ...(config.cwd === undefined ? {} : { cwd: config.cwd }),
        },
        pid,
        ...(tag === undefined ? {} : { tag }),
      }));
      return { processes };
    },

    async *start(request, context) {
      for await (const item of streams.start(request, streamCall(context))) yield { event: toEvent(item) };
    },

    async *connect(request, context) {
      for await (const item of streams.connect(request, streamCall(context))) yield { event: toEvent(item) };
    },

    update(request) {
      const process = table.running(selector(request.process));
      if (request.pty === undefined) return {};
      if (!process.hasTerminal) throw new ConnectError("the process has no terminal", Code.FailedPrecondition);
      const { cols, rows } = checkSize(request.pty);
      table.resize(process, cols, rows);
      return {};
    },

    async sendInput(request) {
      await writeInput(table.running(selector(request.process)), request.input);
      return {};
    },

    async streamInput(requests) {
      let process: GuestProcess | undefined;
      for await (const { event } of requests) {
        if (event.case === "start") {
          if (process !== undefined) throw new ConnectError("start may come only once", Code.InvalidArgument);
          process = table.running(selector(event.value.process));
        } else if (event.case === "data") {
          if (process === undefined) throw new ConnectError("the first message must be start", Code.InvalidArgument);
          await writeInput(process, event.value.input);
        }
      }
      return {};
    },

    sendSignal(request) {
      const process = table.running(selector(request.process));
      if (request.signal !== Signal.SIGTERM && request.signal !== Signal.SIGKILL) {
        throw new ConnectError("signal must be SIGNAL_SIGTERM or SIGNAL_SIGKILL", Code.InvalidArgument);
      }
      table.signal(process, request.signal);
      return {};
    },

    closeStdin(request) {
      const process = table.running(selector(request.process));
      if (process.hasTerminal) {
        throw new ConnectError("a terminal has no end of file: send the byte 4 (Ctrl-D) as pty input", Code.FailedPrecondition);
      }
      process.input("stdin").close();
      return {};
    },
  };
}

function streamCall(context: HandlerContext): StreamCall {
  return { header: (name) => context.requestHeader.get(name), signal: context.signal, timeoutMs: () => context.timeoutMs() };
}

async function writeInput(process: GuestProcess, input: ProcessInput | undefined): Promise<void> {
  const given = input?.input;
  if (given?.case === undefined) throw new ConnectError("input is missing", Code.InvalidArgument);
  try {
    await process.input(given.case).write(given.value);
  } catch (error) {
    // The pipe of a program that ends breaks a moment before its end is known, and clients take only `not_found` for that end.
    const isClosed = error instanceof ConnectError && error.code === Code.FailedPrecondition;
    if (isClosed && (await endsWithin(process, endNoticedMs)))
      throw new ConnectError(`process ${process.pid} has ended`, Code.NotFound, undefined, undefined, error);
    throw error;
  }
}

async function endsWithin(process: GuestProcess, timeoutMs: number): Promise<boolean> {
  return withDeadline("the end of the process", timeoutMs, process.ended).then(
    () => true,
    () => false,
  );
}
