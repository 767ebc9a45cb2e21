import { ptyColsMax, ptyRowsMax } from "@roost/contract";
import { RoostError, type PtySession, type SandboxHandle } from "@roost/sdk";

import type { CommandContext } from "../context.ts";
import { CliError, exitCodes, UsageError } from "../failure.ts";
import { RawTerminal } from "../output/raw-terminal.ts";
import { printable } from "../output/printable.ts";
import { write } from "../output/write.ts";
import { parseDetachKey } from "../parse/detach-key.ts";
import { resolveId } from "../sandbox-reference.ts";

export interface ShellOptions {
  readonly tag?: string;
  readonly env?: Record<string, string>;
  readonly cwd?: string;
  readonly user?: string;
  readonly detachKey: string;
}

interface Size {
  readonly cols: number;
  readonly rows: number;
}

export async function shell(
  context: CommandContext,
  reference: string,
  command: string | undefined,
  args: readonly string[],
  options: ShellOptions,
): Promise<number> {
  const { stdin, stdout } = context.io;
  if (context.isJson) throw new UsageError("shell is for people and has no --json; use `roost exec --json`");
  if (stdin.isTTY !== true || stdout.isTTY !== true) {
    throw new UsageError("shell needs a terminal on both sides", "use `roost exec`, with -i to pass standard input on");
  }
  const detachByte = parseDetachKey(options.detachKey);
  const client = await context.client();
  const sandbox = client.sandbox(await resolveId(client, reference, context.signal));
  const session = await open(context, sandbox, command, args, options);
  return attach(context, session, sandbox.id, detachByte);
}

/** The terminal of the tag when there is one, otherwise a new one. */
async function open(
  context: CommandContext,
  sandbox: SandboxHandle,
  command: string | undefined,
  args: readonly string[],
  options: ShellOptions,
): Promise<PtySession> {
  const { tag, cwd, user } = options;
  const size = sizeOf(context);
  if (tag !== undefined) {
    const found = await connect(context, sandbox, tag);
    if (found !== undefined) {
      await redraw(found, size);
      return found;
    }
  }
  const { environment } = context.io;
  const envs = {
    TERM: environment["TERM"] ?? "xterm-256color",
    ...(environment["COLORTERM"] === undefined ? {} : { COLORTERM: environment["COLORTERM"] }),
    ...options.env,
  };
  return sandbox.pty({ cmd: command, args: [...args], envs, cwd, user, tag, ...size, signal: context.signal });
}

async function connect(context: CommandContext, sandbox: SandboxHandle, tag: string): Promise<PtySession | undefined> {
  try {
    return await sandbox.ptyConnect(tag, { signal: context.signal });
  } catch (error) {
    if (error instanceof RoostError && error.is("process_not_found")) return undefined;
    throw error;
  }
}

/** Programs draw anew when the size changes, so that somebody who comes back sees something. */
async function redraw(session: PtySession, size: Size): Promise<void> {
  await session.resize(size.cols, Math.max(1, size.rows - 1));
  await session.resize(size.cols, size.rows);
}

function sizeOf(context: CommandContext): Size {
  const { columns, rows } = context.io.stdout;
  const clamp = (value: number | undefined, otherwise: number, max: number) =>
    Math.min(value === undefined || value === 0 ? otherwise : value, max);
  return { cols: clamp(columns, 80, ptyColsMax), rows: clamp(rows, 24, ptyRowsMax) };
}

async function attach(context: CommandContext, session: PtySession, id: string, detachByte: number | undefined): Promise<number> {
  const { stdin, stdout, signals } = context.io;
  const reconnect = `roost shell ${id} --tag ${session.tag}`;
  let isDetached = false;
  using terminal = new RawTerminal(stdin, stdout, signals);
  const detach = () => {
    isDetached = true;
    session.close();
  };

  // Input is sent in order, one message at a time; while one is on its way the terminal is not read.
  const onData = (chunk: Buffer) => {
    const at = detachByte === undefined ? -1 : chunk.indexOf(detachByte);
    const input = at < 0 ? chunk : chunk.subarray(0, at);
    stdin.pause();
    session
      .write(input)
      .catch(() => undefined) // the reading side reports a lost connection
      .finally(() => (at < 0 ? stdin.resume() : detach()));
  };
  const onResize = () => {
    const { cols, rows } = sizeOf(context);
    session.resize(cols, rows).catch(() => undefined);
  };
  stdin.on("data", onData);
  stdin.once("end", detach);
  stdout.on("resize", onResize);
  using _taken = context.interrupts.take(detach); // SIGTERM and SIGHUP: give the terminal back first
  try {
    for await (const event of session) {
      if (event.type === "output") await write(stdout, event.data);
      else if (event.type === "exit") return event.exitCode;
      else await write(context.io.stderr, `\r\n[${printable(event.message)}]\r\n`);
    }
  } catch (error) {
    if (!isDetached) {
      terminal.leave();
      const isLost = error instanceof RoostError && error.is("connection_lost");
      throw isLost ? new CliError(error.message, { hint: `reconnect with: ${reconnect}`, cause: error }) : error;
    }
  } finally {
    stdin.off("data", onData);
    stdin.off("end", detach);
    stdout.off("resize", onResize);
    session.close();
  }
  terminal.leave();
  await write(context.io.stderr, `\n[left the terminal running; come back with: ${reconnect}]\n`);
  return exitCodes.ok;
}
