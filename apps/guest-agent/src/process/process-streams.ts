import { Code, ConnectError } from "@connectrpc/connect";
import { second } from "@roost/kit";
import type { ConnectRequest, ProcessSelector as WireSelector, StartRequest } from "@roost/contract/gen/process/process_pb.js";

import type { GuestContext } from "../context.ts";
import type { InitState } from "../init/init-state.ts";
import { basicUserName } from "../users/users.ts";
import { processEnvironment } from "./environment.ts";
import type { GuestProcess } from "./guest-process.ts";
import type { OutputItem, Subscription } from "./output-hub.ts";
import type { ProcessSelector, ProcessTable } from "./process-table.ts";
import { checkStart } from "./start-request.ts";

/** Streams of output at once; more are refused. */
export const streamsMax = 1024;

/** Time without an event in `s` after which a keepalive is sent, unless the client's header says otherwise. */
const keepaliveSecDefault = 90;
const keepaliveSecMin = 1;
/** Half of the time after which the server takes a silent connection for dead. */
const keepaliveSecMax = 1800;

/** Longest deadline in `ms` that a timer can hold; a longer one is none. */
const timerMsMax = 2 ** 31 - 1;

/** Nobody waits for it any more; made once, since an error costs a stack. No ConnectError: at start that would load all of `fetch`. */
const streamOver = new Error("the stream is over");

/** What a stream needs to know of the request it answers. */
export interface StreamCall {
  header(name: string): string | null;
  /** Aborted when the client is gone or the deadline passed; the reason says which. */
  readonly signal: AbortSignal;
  /** Time left in `ms`; undefined without a deadline. */
  timeoutMs(): number | undefined;
}

/** One event of a stream, before it is put into a message. */
export type StreamItem = { readonly kind: "start"; readonly pid: number } | OutputItem;

/** The two streaming methods of `process.Process`, free of any codec. */
export class ProcessStreams {
  readonly #context: GuestContext;
  readonly #table: ProcessTable;
  readonly #init: InitState;
  #open = 0;

  constructor(context: GuestContext, table: ProcessTable, init: InitState) {
    this.#context = context;
    this.#table = table;
    this.#init = init;
  }

  async *start(request: StartRequest, call: StreamCall): AsyncGenerator<StreamItem> {
    const user = this.#context.users.acting(basicUserName(call.header("authorization")));
    this.#checkOpen();
    const checked = checkStart(request);
    const { cwd } = checked.config;
    const wanted = cwd ?? this.#init.defaultWorkdir;
    const timeoutMs = call.timeoutMs();
    const { process, output } = await this.#table.start({
      ...checked,
      user,
      cwd: wanted === undefined ? user.home : this.#context.expandPath(wanted, user),
      cwdOptional: wanted === undefined,
      cwdOtherwise: cwd === undefined && wanted !== undefined ? user.home : undefined,
      envs: processEnvironment({
        user,
        identity: this.#init.identity,
        initEnvs: this.#init.envVars,
        requestEnvs: checked.config.envs,
        hasTerminal: checked.terminal !== undefined,
      }),
      timeoutMs: timeoutMs !== undefined && timeoutMs <= timerMsMax ? timeoutMs : undefined,
    });
    yield* this.#follow(process, output, call, true);
  }

  async *connect(request: ConnectRequest, call: StreamCall): AsyncGenerator<StreamItem> {
    this.#checkOpen();
    const process = this.#table.runningOrEnded(selector(request.process));
    yield* this.#follow(process, process.output.subscribe(), call, false);
  }

  async *#follow(process: GuestProcess, output: Subscription, call: StreamCall, deadlineIsOurs: boolean): AsyncGenerator<StreamItem> {
    const leave = () => output.leave(ConnectError.from(call.signal.reason, Code.Canceled));
    this.#open += 1;
    if (call.signal.aborted) leave();
    // Not only in `finally`: a generator whose reader vanished may stay suspended, and must not hold up the process.
    call.signal.addEventListener("abort", leave);
    try {
      yield { kind: "start", pid: process.pid };
      const idleMs = keepaliveMs(call.header("keepalive-ping-interval"));
      for (;;) {
        const item = await output.next(idleMs);
        if (item.kind === "end" && deadlineIsOurs && process.timedOut) {
          throw new ConnectError("the process was killed: its deadline passed", Code.DeadlineExceeded);
        }
        yield item;
        if (item.kind === "end") return;
      }
    } finally {
      this.#open -= 1;
      call.signal.removeEventListener("abort", leave);
      output.leave(streamOver);
    }
  }

  #checkOpen(): void {
    if (this.#open >= streamsMax) throw new ConnectError(`at most ${streamsMax} streams can be open at once`, Code.ResourceExhausted);
  }
}

export function selector(wire: WireSelector | undefined): ProcessSelector {
  if (wire?.selector.case === undefined) throw new ConnectError("a process selector is missing: pid or tag", Code.InvalidArgument);
  return wire.selector;
}

function keepaliveMs(header: string | null): number {
  const asked = Number(header ?? Number.NaN);
  const seconds = Number.isFinite(asked) && asked > 0 ? Math.min(Math.max(asked, keepaliveSecMin), keepaliveSecMax) : keepaliveSecDefault;
  return seconds * second;
}
