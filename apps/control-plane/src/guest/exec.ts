import { isUtf8 } from "node:buffer";
import { randomBytes } from "node:crypto";

import { execOutputBytesMax, PlatformError, type ExecBody, type ExecResult, type ExecStarted } from "@roost/contract";
import { formatBytes, second, type Logger } from "@roost/kit";

import type { Guest } from "./guest.ts";
import { signalIfRunning } from "./process-control.ts";
import { ProcessInput } from "./process-input.ts";
import { ProcessStream, type ProcessSpec } from "./process-stream.ts";

/** How long a killed process may take to be gone in `ms`; the answer does not wait longer */
const killGraceMs = 5 * second;
/** By how much the guest's own deadline is later than ours in `ms`: it is for when we cannot kill */
const guestDeadlineMarginMs = 10 * second;
/** Piece of standard input in `bytes` */
const stdinPieceBytes = 64 * 1024;

/** `proc-1f00ba11`: a name for a process whose starter gave none. */
export function newTag(kind: "proc" | "pty"): string {
  return `${kind}-${randomBytes(4).toString("hex")}`;
}

function specOf(body: ExecBody): ProcessSpec {
  return {
    cmd: body.cmd,
    args: body.args,
    envs: body.envs,
    cwd: body.cwd,
    user: body.user,
    tag: body.tag,
    stdin: body.stdin !== undefined,
  };
}

/**
 * Runs a command to its end. It is killed, with its process group, when it takes longer than it may, when it prints more
 * than is taken, and when the caller is gone (nobody would read the result).
 */
export async function execForeground(guest: Guest, body: ExecBody, caller: AbortSignal, log: Logger): Promise<ExecResult> {
  const timeoutMs = body.timeout_sec * second;
  const guestDeadline = timeoutMs === 0 ? {} : { guestDeadlineMs: timeoutMs + guestDeadlineMarginMs };
  const time = performance.now();
  // Not under the caller's signal: an aborted start may have started something, and then nobody could end it.
  const stream = await ProcessStream.start(guest, { ...specOf(body), ...guestDeadline }, new AbortController().signal);
  const output = new OutputCollector();
  let ending: PlatformError | undefined;
  let graceTimer: NodeJS.Timeout | undefined;

  const endEarly = (why: PlatformError) => {
    if (ending !== undefined) return;
    ending = why;
    graceTimer = setTimeout(() => stream.close(), killGraceMs);
    signalIfRunning(guest, stream.pid, "SIGKILL").catch((error: unknown) => log.warn({ err: error }, "could not kill a command"));
  };
  const onCallerGone = () => endEarly(new PlatformError("request_invalid", "the caller is gone; the command was killed"));
  const timer =
    timeoutMs === 0
      ? undefined
      : setTimeout(
          () => endEarly(new PlatformError("exec_timeout", `the command did not end within ${body.timeout_sec} s and was killed`)),
          Math.min(timeoutMs, 2 ** 31 - 1),
        );
  caller.addEventListener("abort", onCallerGone, { once: true });
  if (caller.aborted) onCallerGone();
  const input = body.stdin === undefined ? undefined : feed(guest, stream.pid, body.stdin, log);
  try {
    for await (const piece of stream) {
      if (ending !== undefined) continue;
      if (!output.add(piece.stream, piece.data)) {
        endEarly(
          new PlatformError(
            "output_too_large",
            `the command printed more than ${formatBytes(execOutputBytesMax)} and was killed; use exec/stream, or write to a file and read that`,
          ),
        );
      }
    }
  } catch (error) {
    throw ending ?? error;
  } finally {
    clearTimeout(timer);
    clearTimeout(graceTimer);
    caller.removeEventListener("abort", onCallerGone);
    input?.close();
  }
  if (ending !== undefined) throw ending;
  return {
    sandbox_id: guest.identity.sandboxId,
    cmd: body.cmd,
    ...output.text(),
    exit_code: stream.exitCode ?? 0,
    duration_ms: Math.round(performance.now() - time),
  };
}

/** Starts a command and answers when it runs. Its output is read and dropped, so that it never waits for a reader. */
export async function execBackground(guest: Guest, body: ExecBody, log: Logger): Promise<ExecStarted> {
  const tag = body.tag ?? newTag("proc");
  const stream = await ProcessStream.start(guest, { ...specOf(body), tag }, new AbortController().signal);
  if (body.stdin !== undefined) feed(guest, stream.pid, body.stdin, log);
  void keepReading(stream, log);
  return { sandbox_id: guest.identity.sandboxId, cmd: body.cmd, pid: stream.pid, tag };
}

/**
 * Reads and drops what a process prints until it ends. The open connection is what makes a command in the background
 * count as activity of its sandbox.
 */
export async function keepReading(stream: ProcessStream, log: Logger): Promise<void> {
  try {
    for await (const piece of stream) void piece;
    log.debug({ pid: stream.pid, exitCode: stream.exitCode }, "a command in the background ended");
  } catch (error) {
    log.debug({ err: error, pid: stream.pid }, "no longer following a command in the background");
  }
}

function feed(guest: Guest, pid: number, text: string, log: Logger): ProcessInput {
  const input = new ProcessInput(guest, pid, "stdin");
  const write = async () => {
    const bytes = Buffer.from(text, "utf8");
    for (let offset = 0; offset < bytes.length; offset += stdinPieceBytes)
      await input.write(bytes.subarray(offset, offset + stdinPieceBytes));
    await input.end();
  };
  // A command may end without having read all of its input; its exit code is what counts then.
  write().catch((error: unknown) => log.debug({ err: error }, "standard input was not read to its end"));
  return input;
}

class OutputCollector {
  readonly #chunks = { stdout: [] as Uint8Array[], stderr: [] as Uint8Array[] };
  #bytes = 0;

  /** Whether there was room. */
  add(stream: "stdout" | "stderr" | "pty", data: Uint8Array): boolean {
    this.#bytes += data.length;
    if (this.#bytes > execOutputBytesMax) return false;
    this.#chunks[stream === "stderr" ? "stderr" : "stdout"].push(data);
    return true;
  }

  /** Both streams as text, or both as base64 when one of them is no text. */
  text(): { stdout: string; stderr: string; encoding: "utf-8" | "base64" } {
    const stdout = Buffer.concat(this.#chunks.stdout);
    const stderr = Buffer.concat(this.#chunks.stderr);
    const encoding = isUtf8(stdout) && isUtf8(stderr) ? "utf-8" : "base64";
    return { stdout: stdout.toString(encoding), stderr: stderr.toString(encoding), encoding };
  }
}
