import { closeSync, constants, openSync } from "node:fs";

import { Code, ConnectError } from "@connectrpc/connect";
import { second, type Logger } from "@roost/kit";

import { LaunchError } from "../launcher/launch-error.ts";
import type { Launcher, Started } from "../launcher/launcher.ts";
import type { ProcessLog } from "../logs/process-log.ts";
import type { GuestUser } from "../users/users.ts";
import { GuestProcess, type ProcessConfig } from "./guest-process.ts";
import { launchFailure } from "./launch-failure.ts";
import type { Subscription } from "./output-hub.ts";

/** Processes at once that the agent watches; more are refused. */
export const processesMax = 1024;

/** An ended process can be connected to for this long in `ms`: its last output and its end. */
export const endedKeptMs = 30 * second;

/** Ended processes kept at once; the oldest go first. */
export const endedMax = 256;

/** Ended processes whose pipes something left behind still holds; those of the oldest are closed first. */
const drainingMax = 256;

export type ProcessSelector = { readonly case: "pid"; readonly value: number } | { readonly case: "tag"; readonly value: string };

export interface ProcessStart {
  readonly config: ProcessConfig;
  readonly user: GuestUser;
  readonly envs: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly cwdOptional: boolean;
  /** Where it starts, optionally too, when `cwd` cannot be entered: for a default that a user may have removed. Undefined: it does not */
  readonly cwdOtherwise: string | undefined;
  readonly tag: string | undefined;
  readonly stdin: boolean;
  readonly terminal: { readonly cols: number; readonly rows: number } | undefined;
  /** The process group is killed after this long in `ms`; undefined means never. */
  readonly timeoutMs: number | undefined;
}

const signalKill = 9;

/** All processes the agent started: the running ones, and for a while the ended. */
export class ProcessTable {
  readonly #launcher: Launcher;
  readonly #log: Logger;
  readonly #processLog: ProcessLog;
  readonly #endedKeptMs: number;
  readonly #running = new Map<number, GuestProcess>();
  /** Tags in use, from before the start until the end. */
  readonly #tags = new Map<string, GuestProcess | "starting">();
  /** In the order they ended. */
  readonly #ended = new Map<GuestProcess, NodeJS.Timeout>();
  readonly #draining = new Set<GuestProcess>();
  #starting = 0;

  constructor(launcher: Launcher, processLog: ProcessLog, log: Logger, options: { readonly endedKeptMs?: number } = {}) {
    this.#launcher = launcher;
    this.#processLog = processLog;
    this.#log = log;
    this.#endedKeptMs = options.endedKeptMs ?? endedKeptMs;
  }

  list(): GuestProcess[] {
    return [...this.#running.values()];
  }

  /** Starts a process. The subscription gets all of its output. */
  async start(start: ProcessStart): Promise<{ readonly process: GuestProcess; readonly output: Subscription }> {
    if (start.tag !== undefined && this.#tags.has(start.tag)) {
      throw new ConnectError(`a running process has the tag '${start.tag}' already`, Code.AlreadyExists);
    }
    if (this.#running.size + this.#starting >= processesMax) {
      throw new ConnectError(`at most ${processesMax} processes can run at once`, Code.ResourceExhausted);
    }
    if (start.tag !== undefined) this.#tags.set(start.tag, "starting");
    this.#starting += 1;
    try {
      const { process, ...launched } = await this.#launchSomewhere(start);
      return { process, output: this.#watch(process, { ...start, ...launched }) };
    } catch (error) {
      if (start.tag !== undefined) this.#tags.delete(start.tag);
      throw error instanceof LaunchError ? launchFailure(error, start) : error;
    } finally {
      this.#starting -= 1;
    }
  }

  /** The running process meant. Throws `not_found`. */
  running(selector: ProcessSelector): GuestProcess {
    const found = selector.case === "pid" ? this.#running.get(selector.value) : this.#tags.get(selector.value);
    if (found === undefined || found === "starting") throw notFound(selector);
    return found;
  }

  /** The running process meant, else the one that ended last of those still kept. Throws `not_found`. */
  runningOrEnded(selector: ProcessSelector): GuestProcess {
    const found = selector.case === "pid" ? this.#running.get(selector.value) : this.#tags.get(selector.value);
    if (found !== undefined && found !== "starting") return found;
    const ended = [...this.#ended.keys()].findLast((process) => process[selector.case] === selector.value);
    if (ended === undefined) throw notFound(selector);
    return ended;
  }

  /** Signals the whole process group. */
  signal(process: GuestProcess, signal: number): void {
    this.#launcher.kill(process.pid, signal);
  }

  resize(process: GuestProcess, cols: number, rows: number): void {
    this.#launcher.resize(process.pid, cols, rows);
  }

  /** Forgets everything; running processes go on, as children of init. */
  close(): void {
    for (const timer of this.#ended.values()) clearTimeout(timer);
    for (const process of [...this.#running.values(), ...this.#draining]) process.closeOutput();
    this.#running.clear();
    this.#ended.clear();
  }

  async #launchSomewhere(start: ProcessStart): Promise<{ readonly process: GuestProcess; readonly cwd: string }> {
    const { cwd, cwdOtherwise } = start;
    try {
      return { process: await this.#launch(start), cwd };
    } catch (error) {
      if (cwdOtherwise === undefined || !(error instanceof LaunchError) || error.stage !== "cwd") throw error;
      return { process: await this.#launch({ ...start, cwd: cwdOtherwise, cwdOptional: true }), cwd: cwdOtherwise };
    }
  }

  async #launch(start: ProcessStart): Promise<GuestProcess> {
    const masterFd = start.terminal === undefined ? undefined : openTerminal();
    let started: Started;
    try {
      started = await this.#launcher.start({
        argv: [start.config.cmd, ...start.config.args],
        envs: start.envs,
        cwd: start.cwd,
        cwdOptional: start.cwdOptional,
        uid: start.user.uid,
        gid: start.user.gid,
        groups: start.user.groups,
        stdin: start.stdin,
        terminal: start.terminal === undefined || masterFd === undefined ? undefined : { masterFd, ...start.terminal },
      });
    } catch (error) {
      if (masterFd !== undefined) closeSync(masterFd);
      throw error;
    }
    return new GuestProcess({ config: start.config, tag: start.tag, started, terminalFd: masterFd, processLog: this.#processLog });
  }

  #watch(process: GuestProcess, { timeoutMs, cwd, user }: ProcessStart): Subscription {
    const { pid, config, tag, hasTerminal } = process;
    this.#processLog.started({ pid, config, cwd, user: user.name, tag, hasTerminal });
    this.#running.set(process.pid, process);
    if (process.tag !== undefined) this.#tags.set(process.tag, process);
    const deadline = timeoutMs === undefined ? undefined : setTimeout(() => this.#killLate(process), timeoutMs);
    this.#log.debug({ pid: process.pid, tag: process.tag }, "process started");
    const output = process.begin();
    void process.ended.then((exit) => {
      clearTimeout(deadline);
      this.#processLog.ended(process.pid, exit, process.timedOut);
      this.#log.debug({ pid: process.pid, status: exit.status }, "process ended");
      this.#onEnded(process);
    });
    return output;
  }

  #killLate(process: GuestProcess): void {
    process.timedOut = true;
    this.signal(process, signalKill);
  }

  #onEnded(process: GuestProcess): void {
    if (this.#running.get(process.pid) === process) this.#running.delete(process.pid);
    if (process.tag !== undefined) this.#tags.delete(process.tag);
    this.#ended.set(
      process,
      setTimeout(() => this.#forget(process), this.#endedKeptMs),
    );
    const [oldest] = this.#ended.keys();
    if (this.#ended.size > endedMax && oldest !== undefined) this.#forget(oldest);
    if (process.hasOpenOutput) this.#drain(process);
  }

  /** What an ended process left behind may go on writing; its pipes are read and dropped, of a bounded number. */
  #drain(process: GuestProcess): void {
    this.#draining.add(process);
    for (const drained of this.#draining) if (!drained.hasOpenOutput) this.#draining.delete(drained);
    const [oldest] = this.#draining;
    if (this.#draining.size <= drainingMax || oldest === undefined) return;
    oldest.closeOutput();
    this.#draining.delete(oldest);
  }

  #forget(process: GuestProcess): void {
    clearTimeout(this.#ended.get(process));
    this.#ended.delete(process);
  }
}

function openTerminal(): number {
  return openSync("/dev/ptmx", constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
}

function notFound(selector: ProcessSelector): ConnectError {
  return new ConnectError(`no running process has the ${selector.case} ${JSON.stringify(selector.value)}`, Code.NotFound);
}
