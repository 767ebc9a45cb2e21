import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";

import { assert } from "./assert.ts";
import { poll } from "./deadline.ts";
import { MiB } from "./units.ts";

/** Longest output kept of a command in `bytes`, per stream; a command that prints more fails. */
const outputBytesMax = 16 * MiB;

export interface RunOptions {
  /** The command is killed and fails after this long in `ms`. */
  readonly timeoutMs?: number;
  readonly input?: string | Uint8Array;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** Gets standard output and error as they come, for progress. */
  readonly onOutput?: (chunk: string) => void;
}

/** A command that did not succeed: what was run, how it ended, and what it said last. */
export class CommandError extends Error {
  override readonly name = "CommandError";
  readonly exitCode: number | null;
  readonly stderr: string;

  constructor(command: readonly string[], how: string, exitCode: number | null, stderr: string) {
    const said = stderr.trim().split("\n").slice(-5).join("\n");
    super(`\`${command.join(" ").slice(0, 400)}\` ${how}${said === "" ? "" : `: ${said}`}`);
    this.exitCode = exitCode;
    this.stderr = stderr;
  }
}

/** Runs a command to its end and returns its standard output; anything but exit 0 throws a `CommandError`. */
export async function run(command: readonly [string, ...string[]], options: RunOptions = {}): Promise<string> {
  const [program, ...args] = command;
  const child = spawn(program, args, {
    stdio: ["pipe", "pipe", "pipe"],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.env === undefined ? {} : { env: options.env }),
  });
  const stdout = collect(child.stdout, options.onOutput);
  const stderr = collect(child.stderr, options.onOutput);
  const timeoutMs = options.timeoutMs ?? 60_000;

  return new Promise<string>((resolve, reject) => {
    let failure: string | undefined;
    const kill = (why: string) => {
      failure ??= why;
      child.kill("SIGKILL");
    };
    stdout.onOverflow = stderr.onOverflow = () => kill(`printed more than ${outputBytesMax} bytes`);
    const timer = setTimeout(() => kill(`took longer than ${timeoutMs / 1_000} s`), timeoutMs);
    const onAbort = () => kill("was aborted");
    options.signal?.addEventListener("abort", onAbort, { once: true });
    if (options.signal?.aborted === true) onAbort();
    child.on("error", (error) => {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", onAbort);
      reject(new CommandError(command, `could not start (${error.message})`, null, ""));
    });
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", onAbort);
      if (failure !== undefined) reject(new CommandError(command, failure, code, stderr.text()));
      else if (code === 0) resolve(stdout.text());
      else reject(new CommandError(command, signal === null ? `exited with ${code}` : `was ended by ${signal}`, code, stderr.text()));
    });
    child.stdin.on("error", () => undefined); // a command that ends without reading its input shows in its exit code
    child.stdin.end(options.input ?? "");
  });
}

function collect(stream: NodeJS.ReadableStream, onOutput: ((chunk: string) => void) | undefined) {
  const chunks: Buffer[] = [];
  let bytes = 0;
  const collected = { onOverflow: () => {}, text: () => Buffer.concat(chunks).toString("utf8") };
  stream.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > outputBytesMax) return collected.onOverflow();
    chunks.push(chunk);
    onOutput?.(chunk.toString("utf8"));
  });
  return collected;
}

/**
 * A process by pid and start time, so that a pid the kernel gave to somebody else is never taken for ours.
 * `startTicks` is field 22 of /proc/PID/stat (proc_pid_stat(5)).
 */
export interface ProcessIdentity {
  readonly pid: number;
  readonly startTicks: string;
}

/** Undefined when there is no such process, or only its zombie. */
export async function identifyProcess(pid: number): Promise<ProcessIdentity | undefined> {
  assert(Number.isSafeInteger(pid) && pid > 0, "a pid is a positive integer");
  try {
    const stat = await readFile(`/proc/${pid}/stat`, "latin1");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" "); // the name in front may hold spaces and brackets
    const state = fields[0];
    const startTicks = fields[19];
    if (startTicks === undefined || state === "Z" || state === "X") return undefined;
    return { pid, startTicks };
  } catch {
    return undefined; // gone, or going: the same to the caller
  }
}

export async function isAlive(process: ProcessIdentity): Promise<boolean> {
  return (await identifyProcess(process.pid))?.startTicks === process.startTicks;
}

/** Time a process has to end after SIGTERM in `ms`, before SIGKILL. */
const termGraceMs = 3_000;
/** Time the kernel has to take down a killed process in `ms`; longer means it is stuck in the kernel. */
const killGraceMs = 10_000;

/**
 * Ends a process that need not be our child: asks, waits, kills, waits, and gives up with an error rather than hang.
 * `graceMs: 0` kills at once.
 */
export async function endProcess(target: ProcessIdentity, options: { readonly graceMs?: number } = {}): Promise<void> {
  const graceMs = options.graceMs ?? termGraceMs;
  const isGone = async () => ((await isAlive(target)) ? undefined : true);
  if ((await isGone()) === true) return;
  if (graceMs > 0) {
    signalProcess(target.pid, "SIGTERM");
    const ended = await poll({ what: `end of process ${target.pid}`, timeoutMs: graceMs, intervalMs: 10 }, isGone).catch(() => false);
    if (ended) return;
  }
  if (await isAlive(target)) signalProcess(target.pid, "SIGKILL");
  await poll({ what: `end of killed process ${target.pid}`, timeoutMs: killGraceMs, intervalMs: 5 }, isGone);
}

function signalProcess(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
