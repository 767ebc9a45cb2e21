import { Socket } from "node:net";

import { Code, ConnectError } from "@connectrpc/connect";
import { KiB, MiB } from "@roost/kit";

import type { Started } from "../launcher/launcher.ts";
import type { ProcessLog } from "../logs/process-log.ts";
import { exitStatus, type ExitStatus } from "./exit-status.ts";
import { OutputHub, type OutputKind, type Subscription } from "./output-hub.ts";
import { OutputReader } from "./output-reader.ts";
import { StandardInput } from "./standard-input.ts";

/** Longest piece of output in one event in `bytes`, of a pipe and of a terminal. */
const pipeChunkBytesMax = 32 * KiB;
const terminalChunkBytesMax = 16 * KiB;

/**
 * After a process ended, something it left behind may hold its pipes open. Whatever it wrote itself is read within
 * this time in `ms` of unhindered reading; then its end is told, although the pipes are open.
 */
export const lingerMs = 1_000;

/**
 * Most commands end within this time in `ms`. Their pipes are read once, at their end, rather than listened to: that is
 * a third of what it costs the agent to run `true`. The first output of a longer one is late by as much at most.
 */
export const listenDelayMs = 20;

/** The same as a limit in `bytes`: more than a pipe can hold comes from somebody else. */
const lingerBytesMax = 1 * MiB;

/** What was asked for, as List shows it. */
export interface ProcessConfig {
  readonly cmd: string;
  readonly args: readonly string[];
  readonly envs: Readonly<Record<string, string>>;
  readonly cwd: string | undefined;
}

export interface ProcessParts {
  readonly config: ProcessConfig;
  readonly tag: string | undefined;
  readonly started: Started;
  /** The agent's master side; undefined for a process with pipes. */
  readonly terminalFd: number | undefined;
  readonly processLog: ProcessLog;
}

/**
 * A process of the guest, from its start until its end was told.
 *
 *     running --(reaped)--> lingering --(pipes at their end, or long enough; terminal read empty)--> ended
 *
 * Output is not read before `begin`, so that the first subscriber misses nothing.
 */
export class GuestProcess {
  readonly pid: number;
  readonly config: ProcessConfig;
  readonly tag: string | undefined;
  readonly output: OutputHub;
  readonly hasTerminal: boolean;
  /** Resolves when the end was told to subscribers. */
  readonly ended: Promise<ExitStatus>;
  /** Whether it was killed because its deadline passed. */
  timedOut = false;
  readonly #started: Started;
  readonly #processLog: ProcessLog;
  readonly #input: StandardInput | undefined;
  readonly #sources: OutputReader[] = [];
  #openSources = 0;
  #reaped: ExitStatus | undefined;
  #listenTimer: NodeJS.Timeout | undefined;
  #lingerTimer: NodeJS.Timeout | undefined;
  #lingerBytes = 0;
  #tellEnded!: (exit: ExitStatus) => void;
  #isEnded = false;

  constructor(parts: ProcessParts) {
    this.pid = parts.started.pid;
    this.config = parts.config;
    this.tag = parts.tag;
    this.#started = parts.started;
    this.#processLog = parts.processLog;
    this.hasTerminal = parts.terminalFd !== undefined;
    this.output = new OutputHub({ pause: () => this.#pause(), resume: () => this.#resume() });
    this.ended = new Promise((resolve) => {
      this.#tellEnded = resolve;
    });
    if (parts.terminalFd !== undefined) {
      const terminal = this.#read("terminal", parts.terminalFd, "pty", terminalChunkBytesMax);
      this.#input = new StandardInput(terminal.listen());
    } else {
      for (const kind of ["stdout", "stderr"] as const) {
        const fd = parts.started[kind];
        if (fd !== undefined) this.#read("pipe", fd, kind, pipeChunkBytesMax);
      }
      const fd = parts.started.stdin;
      if (fd !== undefined) this.#input = new StandardInput(new Socket({ fd, readable: false, writable: true }));
    }
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** Starts to read; answers a subscription that gets everything from the first byte. */
  begin(): Subscription {
    const subscription = this.output.subscribe();
    if (!this.hasTerminal) this.#listenTimer = setTimeout(() => this.#listen(), listenDelayMs);
    void this.#started.exited.then((waitStatus) => this.#onReaped(waitStatus));
    return subscription;
  }

  #listen(): void {
    clearTimeout(this.#listenTimer);
    for (const source of this.#sources) source.listen();
  }

  /** Where `SendInput` goes. Throws `failed_precondition` when the process was started without it. */
  input(kind: "stdin" | "pty"): StandardInput {
    if (kind === "pty" && !this.hasTerminal) throw new ConnectError("the process has no terminal", Code.FailedPrecondition);
    if (kind === "stdin" && this.hasTerminal) {
      throw new ConnectError("the process has a terminal: send its input as pty", Code.FailedPrecondition);
    }
    if (this.#input === undefined) {
      throw new ConnectError("the process was started without standard input", Code.FailedPrecondition);
    }
    return this.#input;
  }

  /** Whether something the ended process left behind still holds its pipes. */
  get hasOpenOutput(): boolean {
    return this.#openSources > 0;
  }

  /** Closes the pipes of an ended process: who still writes to them gets SIGPIPE. */
  closeOutput(): void {
    for (const source of this.#sources) source.close();
  }

  #read(source: "pipe" | "terminal", fd: number, kind: OutputKind, chunkBytesMax: number): OutputReader {
    const reader = new OutputReader(source, fd, chunkBytesMax, {
      onData: (bytes) => this.#onData(kind, bytes),
      onClose: () => {
        this.#openSources -= 1;
        if (this.#openSources === 0) this.#tryEnd();
      },
    });
    this.#openSources += 1;
    this.#sources.push(reader);
    return reader;
  }

  #onData(kind: OutputKind, bytes: Uint8Array): void {
    if (kind !== "pty") this.#processLog.output(this.pid, kind, bytes);
    if (this.#isEnded) return; // read and dropped, so that what a process left behind does not die of SIGPIPE
    this.output.push(kind, bytes);
    if (this.#reaped === undefined) return;
    this.#lingerBytes += bytes.length;
    if (this.#lingerBytes > lingerBytesMax) this.#end();
  }

  #onReaped(waitStatus: number): void {
    this.#reaped = exitStatus(waitStatus);
    if (!this.hasTerminal) {
      this.#input?.destroy();
      for (const source of this.#sources) if (source.drain() === "end") source.close();
      if (this.#openSources > 0) this.#listen();
    }
    this.#tryEnd();
  }

  /** Ends a reaped process when its output is at its end; else waits for what its state says. */
  #tryEnd(): void {
    if (this.#reaped === undefined || this.#isEnded) return;
    if (this.#openSources === 0) this.#end();
    else if (this.hasTerminal) this.#endWhenDrained();
    else if (!this.output.paused) this.#lingerTimer ??= setTimeout(() => this.#endWhenDrained(), lingerMs);
  }

  /** Whatever the process wrote is in the pipe or the terminal by now: all of it goes before the end. */
  #endWhenDrained(): void {
    this.#lingerTimer = undefined;
    if (this.#sources.every((source) => source.drain() !== "paused")) this.#end();
  }

  #end(): void {
    if (this.#isEnded || this.#reaped === undefined) return;
    this.#isEnded = true;
    clearTimeout(this.#lingerTimer);
    clearTimeout(this.#listenTimer);
    this.output.end(this.#reaped);
    for (const source of this.#sources) source.resume();
    if (this.hasTerminal) {
      this.closeOutput();
      this.#started.hangUp();
    }
    this.#tellEnded(this.#reaped);
  }

  #pause(): void {
    clearTimeout(this.#lingerTimer);
    this.#lingerTimer = undefined;
    for (const source of this.#sources) source.pause();
  }

  #resume(): void {
    for (const source of this.#sources) source.resume();
    this.#tryEnd();
  }
}
