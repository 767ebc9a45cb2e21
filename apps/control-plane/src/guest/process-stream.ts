import { Code, ConnectError, type CallOptions } from "@connectrpc/connect";
import { type ProcessEvent, type ProcessEvent_EndEvent } from "@roost/contract/gen/process/process_pb.js";
import { PlatformError, shellExitCode } from "@roost/contract";
import { second } from "@roost/kit";

import { fromGuestError, guestUnreachable, processErrors, startErrors, type GuestErrorCodes } from "./guest-errors.ts";
import { quickCallTimeoutMs, type Guest } from "./guest.ts";
import { selectorOf, type ProcessSelector } from "./process-selector.ts";

/** Seconds between signs of life of a stream that has nothing to say */
const keepaliveSec = 30;
/** A stream silent for this long in `ms` is dead; three signs of life were missed */
const silenceMs = 100 * second;

/** Time a guest has to close a stream after its end event in `ms`, before the connection is given up */
const finishTimeoutMs = 2 * second;

export interface ProcessSpec {
  readonly cmd: string;
  readonly args: readonly string[];
  readonly envs: Readonly<Record<string, string>>;
  readonly cwd?: string | undefined;
  readonly user?: string | undefined;
  readonly tag?: string | undefined;
  /** Whether standard input stays open for more. */
  readonly stdin: boolean;
  readonly terminal?: { readonly cols: number; readonly rows: number };
  /** The guest kills the process after this long in `ms`; a backstop for when the control plane cannot. */
  readonly guestDeadlineMs?: number;
}

export interface ProcessOutput {
  readonly stream: "stdout" | "stderr" | "pty";
  readonly data: Uint8Array;
}

/**
 * The output of one process, from its start or from now on. Read it with `for await`; not reading holds the process
 * back. When the reading ends, `exitCode` is known. Closing the stream does not end the process.
 */
export class ProcessStream implements AsyncIterable<ProcessOutput> {
  readonly pid: number;
  readonly #events: AsyncIterator<{ readonly event?: ProcessEvent | undefined }>;
  readonly #abort: AbortController;
  readonly #errors: GuestErrorCodes;
  readonly #guest: Guest;
  #exitCode: number | undefined;
  #silence: NodeJS.Timeout | undefined;

  private constructor(
    pid: number,
    guest: Guest,
    events: AsyncIterator<{ readonly event?: ProcessEvent | undefined }>,
    abort: AbortController,
    errors: GuestErrorCodes,
  ) {
    this.pid = pid;
    this.#guest = guest;
    this.#events = events;
    this.#abort = abort;
    this.#errors = errors;
  }

  /** Starts a process. `signal` only counts until it has started. */
  static async start(guest: Guest, spec: ProcessSpec, signal: AbortSignal): Promise<ProcessStream> {
    const request = {
      process: { cmd: spec.cmd, args: [...spec.args], envs: spec.envs, ...(spec.cwd === undefined ? {} : { cwd: spec.cwd }) },
      stdin: spec.stdin,
      ...(spec.tag === undefined ? {} : { tag: spec.tag }),
      ...(spec.terminal === undefined ? {} : { pty: { size: spec.terminal } }),
    };
    const deadline = spec.guestDeadlineMs === undefined ? {} : { "connect-timeout-ms": String(Math.ceil(spec.guestDeadlineMs)) };
    return ProcessStream.#open(guest, (options) => guest.processes.start(request, options), spec.user, deadline, startErrors, signal);
  }

  /** Follows a running process from now on. */
  static async connect(guest: Guest, selector: ProcessSelector, signal: AbortSignal): Promise<ProcessStream> {
    const request = { process: selectorOf(selector) };
    return ProcessStream.#open(guest, (options) => guest.processes.connect(request, options), undefined, {}, processErrors, signal);
  }

  static async #open(
    guest: Guest,
    call: (options: CallOptions) => AsyncIterable<{ readonly event?: ProcessEvent | undefined }>,
    user: string | undefined,
    headers: Record<string, string>,
    errors: GuestErrorCodes,
    signal: AbortSignal,
  ): Promise<ProcessStream> {
    const abort = new AbortController();
    const onAbort = () => abort.abort(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    const timer = setTimeout(() => abort.abort(guestUnreachable("no start event")), quickCallTimeoutMs);
    try {
      signal.throwIfAborted();
      const events = call({
        signal: abort.signal,
        headers: { ...guest.headers(user), "keepalive-ping-interval": String(keepaliveSec), ...headers },
      })[Symbol.asyncIterator]();
      for (;;) {
        const first = await events.next();
        if (first.done === true) throw new PlatformError("guest_error", "the guest agent ended the process's stream before it began");
        const event = first.value.event?.event;
        if (event?.case === "keepalive") continue;
        if (event?.case === "start") return new ProcessStream(event.value.pid, guest, events, abort, errors);
        if (event?.case === "end") {
          const stream = new ProcessStream(0, guest, events, abort, errors);
          stream.#end(event.value);
          return stream;
        }
        throw new PlatformError("guest_error", "the guest agent sent something other than the process's start first");
      }
    } catch (error) {
      abort.abort();
      throw fromGuestError(signal.aborted ? error : (abortReason(abort) ?? error), errors);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
    }
  }

  /** 128 + signal number when a signal ended it; undefined until the reading has ended. */
  get exitCode(): number | undefined {
    return this.#exitCode;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ProcessOutput, void, undefined> {
    if (this.#exitCode !== undefined) return;
    try {
      for (;;) {
        this.#watchSilence();
        const next = await this.#events.next();
        clearTimeout(this.#silence);
        if (next.done === true) throw new PlatformError("guest_error", "the guest agent ended the process's stream without its end");
        const event = next.value.event?.event;
        if (event?.case === "data") {
          const output = event.value.output;
          if (output.case !== undefined && output.value.length > 0) yield { stream: output.case, data: output.value };
        } else if (event?.case === "end") {
          this.#end(event.value);
          return;
        }
      }
    } catch (error) {
      const failure = fromGuestError(abortReason(this.#abort) ?? error, withoutDeadline(this.#errors));
      const isBroken = failure.code === "guest_unreachable" && !this.#abort.signal.aborted;
      if (this.#guest.ended.aborted || (isBroken && (await this.#guest.hasEnded())))
        throw new PlatformError("guest_unreachable", "the sandbox was paused or ended while the process ran", { cause: error });
      throw failure;
    } finally {
      if (this.#exitCode === undefined) this.close();
    }
  }

  /** Stops following; the process lives on. */
  close(): void {
    clearTimeout(this.#silence);
    this.#abort.abort(new ConnectError("no longer followed", Code.Canceled));
  }

  #watchSilence(): void {
    this.#silence = setTimeout(() => this.#abort.abort(guestUnreachable("silent stream")), silenceMs);
  }

  #end(end: ProcessEvent_EndEvent): void {
    this.#exitCode = shellExitCode(end);
    void this.#finish();
  }

  /** After the end event the guest closes the stream; read to its very end, its connection can be used again. */
  async #finish(): Promise<void> {
    const timer = setTimeout(() => this.close(), finishTimeoutMs);
    try {
      const next = await this.#events.next();
      if (next.done !== true) this.close(); // says more after the end: not worth keeping
    } catch {
      // how the stream closes says nothing more about the process
    } finally {
      clearTimeout(timer);
    }
  }
}

function abortReason(abort: AbortController): PlatformError | undefined {
  return abort.signal.reason instanceof PlatformError ? abort.signal.reason : undefined;
}

/** In mid-stream "not found" and the like are not the caller's fault any more. */
function withoutDeadline(errors: GuestErrorCodes): GuestErrorCodes {
  return errors === startErrors ? {} : errors;
}
