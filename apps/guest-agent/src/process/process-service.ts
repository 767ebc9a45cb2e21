import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import { second } from "@roost/kit";
import {
  Signal,
  type Process,
  type ProcessEventSchema,
  type ProcessInput,
  type ProcessSelector as WireSelector,
} from "@roost/contract/gen/process/process_pb.js";

import type { GuestContext } from "../context.ts";
import type { InitState } from "../init/init-state.ts";
import { processEnvironment } from "./environment.ts";
import type { GuestProcess } from "./guest-process.ts";
import type { OutputItem, Subscription } from "./output-hub.ts";
import type { ProcessSelector, ProcessTable } from "./process-table.ts";
import { checkSize, checkStart } from "./start-request.ts";

/** Streams of output at once; more are refused. */
export const streamsMax = 1024;

/** Time without an event in `s` after which a keepalive is sent, unless the client's header says otherwise. */
const keepaliveSecDefault = 90;
const keepaliveSecMin = 1;
const keepaliveSecMax = 3600;

/** Longest deadline in `ms` that a timer can hold; a longer one is none. */
const timerMsMax = 2 ** 31 - 1;

export interface ProcessServiceParts {
  readonly context: GuestContext;
  readonly table: ProcessTable;
  readonly init: InitState;
}

type Event = MessageInitShape<typeof ProcessEventSchema>;

/** `process.Process` of the wire. */
export function createProcessService({ context, table, init }: ProcessServiceParts): ServiceImpl<typeof Process> {
  let streams = 0;

  async function* follow(
    process: GuestProcess,
    output: Subscription,
    call: HandlerContext,
    deadlineCounts: boolean,
  ): AsyncGenerator<{ event: Event }> {
    const leave = () => output.leave(abortReason(call.signal));
    streams += 1;
    if (call.signal.aborted) leave();
    // Not only in `finally`: a generator whose reader vanished may stay suspended, and must not hold up the process.
    call.signal.addEventListener("abort", leave);
    try {
      yield { event: { event: { case: "start", value: { pid: process.pid } } } };
      const idleMs = keepaliveMs(call.requestHeader);
      for (;;) {
        const item = await output.next(idleMs);
        if (item.kind === "end" && process.timedOut && deadlineCounts) {
          throw new ConnectError("the process was killed: its deadline passed", Code.DeadlineExceeded);
        }
        yield { event: toEvent(item) };
        if (item.kind === "end") return;
      }
    } finally {
      streams -= 1;
      call.signal.removeEventListener("abort", leave);
      leave();
    }
  }

  function checkStreams(): void {
    if (streams >= streamsMax) throw new ConnectError(`at most ${streamsMax} streams can be open at once`, Code.ResourceExhausted);
  }

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

    async *start(request, call) {
      const user = context.users.userOf(call.requestHeader);
      checkStreams();
      const checked = checkStart(request);
      const wanted = checked.config.cwd ?? init.defaultWorkdir;
      const timeoutMs = call.timeoutMs();
      const { process, output } = await table.start({
        ...checked,
        user,
        cwd: wanted === undefined ? user.home : context.expandPath(wanted, user),
        cwdOptional: wanted === undefined,
        envs: processEnvironment({
          user,
          identity: init.identity,
          initEnvs: init.envVars,
          requestEnvs: checked.config.envs,
          hasTerminal: checked.terminal !== undefined,
        }),
        timeoutMs: timeoutMs !== undefined && timeoutMs <= timerMsMax ? timeoutMs : undefined,
      });
      yield* follow(process, output, call, true);
    },

    async *connect(request, call) {
      checkStreams();
      const process = table.runningOrEnded(selector(request.process));
      yield* follow(process, process.output.subscribe(), call, false);
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

function toEvent(item: OutputItem): Event {
  switch (item.kind) {
    case "stdout":
    case "stderr":
    case "pty":
      return { event: { case: "data", value: { output: { case: item.kind, value: item.bytes } } } };
    case "end": {
      const { exitCode, exited, status, error } = item.exit;
      return { event: { case: "end", value: { exitCode, exited, status, ...(error === undefined ? {} : { error }) } } };
    }
    case "idle":
      return { event: { case: "keepalive", value: {} } };
  }
}

async function writeInput(process: GuestProcess, input: ProcessInput | undefined): Promise<void> {
  const given = input?.input;
  if (given?.case === undefined) throw new ConnectError("input is missing", Code.InvalidArgument);
  await process.input(given.case).write(given.value);
}

function selector(wire: WireSelector | undefined): ProcessSelector {
  if (wire?.selector.case === undefined) throw new ConnectError("a process selector is missing: pid or tag", Code.InvalidArgument);
  return wire.selector;
}

function keepaliveMs(headers: Headers): number {
  const asked = Number(headers.get("keepalive-ping-interval") ?? Number.NaN);
  const seconds = Number.isFinite(asked) && asked > 0 ? Math.min(Math.max(asked, keepaliveSecMin), keepaliveSecMax) : keepaliveSecDefault;
  return seconds * second;
}

/** Why a call ends early: its deadline, or the client that went away. */
function abortReason(signal: AbortSignal): ConnectError {
  return ConnectError.from(signal.reason ?? "the stream was left", Code.Canceled);
}
