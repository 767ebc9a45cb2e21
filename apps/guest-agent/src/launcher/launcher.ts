import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, constants, openSync } from "node:fs";
import type { Duplex } from "node:stream";

import { assert, must, type Logger } from "@roost/kit";

import {
  decodeRecord,
  encodeBecome,
  encodeKill,
  encodeRelease,
  encodeResize,
  encodeScan,
  encodeStart,
  recordBytes,
  startFrameBytesMax,
  type BecomeFrame,
  type LauncherRecord,
  type StartFrame,
} from "./frames.ts";
import { LaunchError } from "./launch-error.ts";

/** A launcher that answers nothing for this long in `ms` hangs (in a dead network mount, say): the agent starts afresh. */
const answerTimeoutMs = 30_000;

/** Release frames that may wait; each holds two descriptors of the launcher. */
const releasesMax = 16;

/** Errno of a process whose arguments and environment are too long. */
const errnoE2big = 7;

/** A process that runs. Descriptors are the agent's own, non-blocking; undefined where there is none. */
export interface Started {
  readonly pid: number;
  readonly stdin: number | undefined;
  readonly stdout: number | undefined;
  readonly stderr: number | undefined;
  /** Hangs a terminal up. Until then it can be read to its last byte after the process ended. Nothing for pipes. */
  hangUp(): void;
  /** What wait(2) says once it was reaped; stays pending when the launcher fails. */
  readonly exited: Promise<number>;
}

interface Answer {
  readonly record: LauncherRecord;
  /** of a `started` */
  readonly exited: Promise<number> | undefined;
}

interface Waiting {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

export interface LauncherEvents {
  /** A port began or stopped (both false) to listen on a loopback address. */
  readonly onListener: (port: number, families: { readonly ipv4: boolean; readonly ipv6: boolean }) => void;
  /** The launcher died or hangs: nothing can be started or reaped any more. */
  readonly onFailure: (error: Error) => void;
}

/** The agent's side of `native/launcher.c`. */
export class Launcher {
  readonly #child: ChildProcess;
  readonly #control: Duplex;
  readonly #events: LauncherEvents;
  readonly #waiting = new Map<number, Waiting>();
  /** By pid. Filled when the start is read, not when its caller continues: the exit may be in the same read. */
  readonly #exits = new Map<number, (waitStatus: number) => void>();
  #idNext = 1;
  /** Release frames that wait for another frame to go with. */
  #releases: Buffer[] = [];
  #received: Buffer = Buffer.alloc(0);
  #closed = false;
  #watchdog: NodeJS.Timeout | undefined;

  constructor(path: string, log: Logger, events: LauncherEvents) {
    this.#events = events;
    this.#child = spawn(path, [], { stdio: ["ignore", "ignore", "inherit", "pipe"], env: {} });
    this.#control = must(this.#child.stdio[3], "the launcher's control socket") as Duplex;
    this.#control.on("data", (bytes: Buffer) => this.#receive(bytes));
    this.#control.on("error", (error) => this.#fail(new Error("the launcher's socket failed", { cause: error })));
    this.#control.on("close", () => this.#fail(new Error("the launcher closed its socket")));
    this.#child.on("error", (error) => this.#fail(new Error(`the launcher ${path} did not start`, { cause: error })));
    this.#child.on("exit", (code, signal) => this.#fail(new Error(`the launcher ended: exit ${code}, signal ${signal}`)));
    log.debug({ pid: this.#child.pid }, "launcher started");
  }

  /** Starts a process. Throws a `LaunchError` when the guest is the reason that it cannot. */
  async start(frame: Omit<StartFrame, "id">): Promise<Started> {
    const id = this.#nextId();
    const bytes = encodeStart({ ...frame, id });
    if (bytes.length > startFrameBytesMax) throw new LaunchError("exec", errnoE2big);
    const { record, exited } = await this.#ask(id, bytes);
    if (record.kind === "failed") throw new LaunchError(record.stage, record.errno);
    assert(record.kind === "started", "a start is answered by started or failed");
    return this.#takeOver(record, must(exited, "a started process has an exit to wait for"), frame.terminal !== undefined);
  }

  /** Signals the whole process group of a process that is not reaped yet; does nothing otherwise. */
  kill(pid: number, signal: number): void {
    this.#send(encodeKill(pid, signal));
  }

  resize(pid: number, cols: number, rows: number): void {
    this.#send(encodeResize(pid, cols, rows));
  }

  /** Gives the guest entropy, clock, host name and files; answers which step failed and why, if one did. */
  async become(frame: Omit<BecomeFrame, "id">): Promise<{ readonly step: number; readonly errno: number }> {
    const id = this.#nextId();
    const { record } = await this.#ask(id, encodeBecome({ ...frame, id }));
    assert(record.kind === "done", "become is answered by done");
    return record;
  }

  /** Reports loopback listeners from now on, looked for every `intervalMs`; 0 stops. */
  scanListeners(intervalMs: number): void {
    this.#send(encodeScan(intervalMs));
  }

  /** Ends the launcher. Processes it started go on, as children of init. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#watchdog);
    this.#control.destroy();
    for (const { reject } of this.#waiting.values()) reject(new Error("the launcher was closed"));
    this.#waiting.clear();
  }

  /** Opens the agent's own ends of the pipes, through /proc: Node cannot receive descriptors over a socket. */
  #takeOver(record: LauncherRecord & { readonly kind: "started" }, exited: Promise<number>, hasTerminal: boolean): Started {
    if (hasTerminal) {
      const hangUp = () => this.#release([record.stdin, -1, -1]);
      return { pid: record.pid, stdin: undefined, stdout: undefined, stderr: undefined, hangUp, exited };
    }
    const opened: number[] = [];
    const open = (descriptor: number, access: number): number | undefined => {
      if (descriptor < 0) return undefined;
      const own = openSync(`/proc/${must(this.#child.pid, "launcher pid")}/fd/${descriptor}`, access | constants.O_NONBLOCK);
      opened.push(own);
      return own;
    };
    try {
      const stdin = open(record.stdin, constants.O_WRONLY);
      const stdout = open(record.stdout, constants.O_RDONLY);
      const stderr = open(record.stderr, constants.O_RDONLY);
      return { pid: record.pid, stdin, stdout, stderr, hangUp: () => undefined, exited };
    } catch (error) {
      this.kill(record.pid, 9);
      for (const descriptor of opened) closeSync(descriptor);
      throw error;
    } finally {
      this.#release([record.stdin, record.stdout, record.stderr]);
    }
  }

  /**
   * With a standard input at once: its end of file waits for it. Else with the next frame, unless there come too many:
   * a write of its own wakes the launcher, which under emulation takes a millisecond from the process just started.
   */
  #release(descriptors: readonly [number, number, number]): void {
    this.#releases.push(encodeRelease(descriptors));
    if (descriptors[0] >= 0 || this.#releases.length >= releasesMax) this.#send();
  }

  #nextId(): number {
    const id = this.#idNext;
    this.#idNext = id >= 0xffff_ffff ? 1 : id + 1;
    return id;
  }

  async #ask(id: number, frame: Buffer): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      if (this.#waiting.size === 1) this.#watch();
      this.#send(frame);
    });
  }

  /** One timer while anything is asked, none otherwise; moved ahead by each answer. */
  #watch(): void {
    this.#watchdog = setTimeout(() => this.#fail(new Error("the launcher does not answer")), answerTimeoutMs);
  }

  #send(frame?: Buffer): void {
    const frames = frame === undefined ? this.#releases : [...this.#releases, frame];
    this.#releases = [];
    if (!this.#closed) this.#control.write(frames.length === 1 && frames[0] !== undefined ? frames[0] : Buffer.concat(frames));
  }

  #receive(bytes: Buffer): void {
    const all = this.#received.length === 0 ? bytes : Buffer.concat([this.#received, bytes]);
    let offset = 0;
    for (; offset + recordBytes <= all.length; offset += recordBytes) this.#dispatch(decodeRecord(all, offset));
    this.#received = all.subarray(offset);
  }

  #dispatch(record: LauncherRecord): void {
    if (record.kind === "exited") {
      this.#exits.get(record.pid)?.(record.waitStatus);
      this.#exits.delete(record.pid);
    } else if (record.kind === "listener") this.#events.onListener(record.port, record);
    else {
      const waiting = must(this.#waiting.get(record.id), "every answer has a question");
      this.#waiting.delete(record.id);
      clearTimeout(this.#watchdog);
      if (this.#waiting.size > 0) this.#watch();
      waiting.resolve({ record, exited: record.kind === "started" ? this.#expectExit(record.pid) : undefined });
    }
  }

  async #expectExit(pid: number): Promise<number> {
    return new Promise((resolve) => {
      this.#exits.set(pid, resolve);
    });
  }

  #fail(error: Error): void {
    if (this.#closed) return;
    this.close();
    this.#events.onFailure(error);
  }
}
