import { Socket } from "node:net";
import { ReadStream } from "node:tty";

import { Code, ConnectError } from "@connectrpc/connect";
import { KiB, MiB } from "@roost/kit";

import type { Started } from "../launcher/launcher.ts";
import { exitStatus, type ExitStatus } from "./exit-status.ts";
import { OutputHub, type OutputKind, type Subscription } from "./output-hub.ts";
import { StandardInput } from "./standard-input.ts";

/** Longest piece of output in one event in `bytes`, of a pipe and of a terminal. */
const pipeChunkBytesMax = 32 * KiB;
const terminalChunkBytesMax = 16 * KiB;

/**
 * After a process ended, something it left behind may hold its pipes open. Whatever it wrote itself is read within
 * this time in `ms` of unhindered reading; then its end is told, although the pipes are open.
 */
export const lingerMs = 1_000;

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
}

/**
 * A process of the guest, from its start until its end was told.
 *
 *     running --(reaped)--> lingering --(pipes at their end, or long enough)--> ended
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
  readonly #input: StandardInput | undefined;
  readonly #sources: Socket[] = [];
  #openSources = 0;
  #reaped: ExitStatus | undefined;
  #lingerTimer: NodeJS.Timeout | undefined;
  #lingerBytes = 0;
  #tellEnded!: (exit: ExitStatus) => void;
  #isEnded = false;

  constructor(parts: ProcessParts) {
    this.pid = parts.started.pid;
    this.config = parts.config;
    this.tag = parts.tag;
    this.#started = parts.started;
    this.hasTerminal = parts.terminalFd !== undefined;
    this.output = new OutputHub({ pause: () => this.#pause(), resume: () => this.#resume() });
    this.ended = new Promise((resolve) => {
      this.#tellEnded = resolve;
    });
    if (parts.terminalFd !== undefined) {
      const terminal = new ReadStream(parts.terminalFd);
      this.#addSource(terminal, "pty", terminalChunkBytesMax);
      this.#input = new StandardInput(terminal);
    } else {
      for (const kind of ["stdout", "stderr"] as const) {
        const fd = parts.started[kind];
        if (fd !== undefined) this.#addSource(new Socket({ fd, readable: true, writable: false }), kind, pipeChunkBytesMax);
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
    for (const source of this.#sources) source.resume();
    void this.#started.exited.then((waitStatus) => this.#onReaped(waitStatus));
    return subscription;
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
    for (const source of this.#sources) source.destroy();
  }

  #addSource(source: Socket, kind: OutputKind, chunkBytesMax: number): void {
    this.#sources.push(source);
    this.#openSources += 1;
    source.pause();
    source.on("data", (bytes: Buffer) => {
      if (this.#isEnded) return; // read and dropped, so that what a process left behind does not die of SIGPIPE
      if (this.#reaped !== undefined) this.#lingerBytes += bytes.length;
      for (let at = 0; at < bytes.length; at += chunkBytesMax) this.output.push(kind, bytes.subarray(at, at + chunkBytesMax));
      if (this.#lingerBytes > lingerBytesMax) this.#end();
    });
    // A terminal whose processes are gone reads as EIO: its way to say end of file.
    source.on("error", () => source.destroy());
    source.on("end", () => source.destroy());
    source.on("close", () => {
      this.#openSources -= 1;
      if (this.#openSources === 0 && this.#reaped !== undefined) this.#end();
    });
  }

  #onReaped(waitStatus: number): void {
    this.#reaped = exitStatus(waitStatus);
    if (!this.hasTerminal) this.#input?.destroy();
    if (this.#openSources === 0) this.#end();
    else if (!this.output.paused) this.#startLinger();
  }

  #startLinger(): void {
    this.#lingerTimer = setTimeout(() => this.#end(), lingerMs);
  }

  #end(): void {
    if (this.#isEnded || this.#reaped === undefined) return;
    this.#isEnded = true;
    clearTimeout(this.#lingerTimer);
    this.output.end(this.#reaped);
    for (const source of this.#sources) source.resume();
    if (this.hasTerminal) for (const source of this.#sources) source.destroy();
    this.#tellEnded(this.#reaped);
  }

  #pause(): void {
    clearTimeout(this.#lingerTimer);
    for (const source of this.#sources) source.pause();
  }

  #resume(): void {
    for (const source of this.#sources) source.resume();
    if (this.#reaped !== undefined && !this.#isEnded) this.#startLinger();
  }
}
