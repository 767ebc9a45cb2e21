import type { Readable } from "node:stream";

import { second, type Logger } from "@roost/kit";

import type { Guest } from "../../guest/guest.ts";
import { signalIfRunning } from "../../guest/process-control.ts";
import { ProcessInput } from "../../guest/process-input.ts";
import { ProcessStream } from "../../guest/process-stream.ts";
import { OutputLines } from "./output-lines.ts";

/** BusyBox on the agent disk: it is in every guest, whatever its template holds */
export const busyboxPath = "/run/roost/agent/bin/busybox";
/** Time that a killed process has to be gone in `ms` */
const killGraceMs = 5 * second;

export interface GuestCommand {
  readonly argv: readonly [string, ...string[]];
  /** Empty: the guest's default user */
  readonly user: string;
  /** Empty: the guest's default */
  readonly workdir: string;
  readonly envs: Readonly<Record<string, string>>;
  readonly tag?: string;
}

export interface CommandOptions {
  readonly signal: AbortSignal;
  readonly log: Logger;
  /** Called with each line that is printed; the command waits for it */
  readonly onLine?: (line: string) => Promise<void>;
  /** Given the output as it is, instead of lines; the command waits for it */
  readonly onBytes?: (data: Uint8Array) => Promise<void>;
  /** Becomes its standard input, as fast as it is read */
  readonly input?: Readable;
}

export interface CommandEnd {
  readonly exitCode: number;
  /** The last lines of what it printed; with `onBytes` those of the error stream alone */
  readonly tail: readonly string[];
}

/** A script of ours, run by BusyBox as root. */
export function script(text: string, args: readonly string[] = []): GuestCommand {
  return { argv: [busyboxPath, "sh", "-c", text, "roost", ...args], user: "root", workdir: "/", envs: {} };
}

/**
 * A command line of a user, for the image's bash, else its sh, else BusyBox: an image may have no shell at all.
 */
export function shellCommand(line: string, as: Pick<GuestCommand, "user" | "workdir" | "envs">): GuestCommand {
  return { argv: [busyboxPath, "sh", "-c", chooseShell, "roost", line], ...as };
}

const chooseShell = `[ -x /bin/bash ] && exec /bin/bash -c "$1"
[ -x /bin/sh ] && exec /bin/sh -c "$1"
exec ${busyboxPath} sh -c "$1"`;

/** Runs a command to its end. When `signal` aborts it is killed, with its process group, and the signal's reason is thrown. */
export async function runInGuest(guest: Guest, command: GuestCommand, options: CommandOptions): Promise<CommandEnd> {
  const { signal, log, onLine, onBytes } = options;
  signal.throwIfAborted();
  const [cmd, ...args] = command.argv;
  // Not under the signal: an aborted start may have started something, and then nobody could end it.
  const stream = await ProcessStream.start(
    guest,
    {
      cmd,
      args,
      envs: command.envs,
      user: command.user === "" ? undefined : command.user,
      cwd: command.workdir === "" ? undefined : command.workdir,
      tag: command.tag,
      stdin: options.input !== undefined,
    },
    new AbortController().signal,
  );
  const failing = new AbortController();
  const ending = AbortSignal.any([signal, failing.signal]);
  let graceTimer: NodeJS.Timeout | undefined;
  const kill = () => {
    if (stream.exitCode !== undefined) return;
    graceTimer ??= setTimeout(() => stream.close(), killGraceMs);
    signalIfRunning(guest, stream.pid, "SIGKILL").catch((error: unknown) =>
      log.debug({ err: error }, "could not kill a command of a build"),
    );
  };
  ending.addEventListener("abort", kill, { once: true });
  if (ending.aborted) kill();
  const input = options.input === undefined ? undefined : feed(guest, stream.pid, options.input, (error) => failing.abort(error));
  const lines = new OutputLines();
  const say = async (all: readonly string[]) => {
    if (onLine !== undefined) for (const line of all) await onLine(line);
  };
  try {
    for await (const piece of stream) {
      if (ending.aborted) continue; // read on, so that its end is seen
      if (onBytes !== undefined && piece.stream !== "stderr") await onBytes(piece.data);
      else await say(lines.add(piece.stream, piece.data));
    }
    ending.throwIfAborted();
    await say(lines.rest());
    return { exitCode: stream.exitCode ?? 0, tail: lines.tail };
  } catch (error) {
    ending.throwIfAborted();
    kill();
    throw error;
  } finally {
    if (stream.exitCode !== undefined) clearTimeout(graceTimer);
    ending.removeEventListener("abort", kill);
    input?.close();
    options.input?.destroy();
  }
}

/** Hands a stream to a process. That the process does not want all of it is no failure: its exit code says what that means. */
function feed(guest: Guest, pid: number, source: Readable, onSourceFailed: (error: unknown) => void): ProcessInput {
  const input = new ProcessInput(guest, pid, "stdin");
  const write = async () => {
    for await (const chunk of source as AsyncIterable<Uint8Array>) {
      try {
        await input.write(chunk);
      } catch {
        return;
      }
    }
    await input.end().catch(() => undefined);
  };
  write().catch(onSourceFailed);
  return input;
}
