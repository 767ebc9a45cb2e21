import { isUtf8 } from "node:buffer";

import type { ExecEvent, ExecStream, SandboxHandle } from "@roost/sdk";

import type { CommandContext } from "../context.ts";
import { exitCodes, InterruptedError, UsageError } from "../failure.ts";
import type { Interrupt } from "../interrupts.ts";
import { write } from "../output/write.ts";
import { resolveId } from "../sandbox-reference.ts";

export interface ExecOptions {
  readonly stdin?: boolean;
  readonly env?: Record<string, string>;
  readonly cwd?: string;
  readonly user?: string;
  readonly timeout?: number;
  readonly tag?: string;
  readonly detach?: boolean;
}

export async function exec(
  context: CommandContext,
  reference: string,
  command: string,
  args: readonly string[],
  options: ExecOptions,
): Promise<number> {
  if (options.detach === true && options.stdin === true) throw new UsageError("--detach and --stdin exclude each other");
  if (options.detach === true && options.timeout !== undefined) throw new UsageError("--timeout does not apply to --detach");
  const client = await context.client();
  const sandbox = client.sandbox(await resolveId(client, reference, context.signal));
  if (options.detach === true) return execDetached(context, sandbox, command, args, options);
  return execAttached(context, sandbox, command, args, options);
}

async function execDetached(
  context: CommandContext,
  sandbox: SandboxHandle,
  command: string,
  args: readonly string[],
  options: ExecOptions,
): Promise<number> {
  const { env, cwd, user, tag } = options;
  const started = await sandbox.execBackground(command, { args: [...args], envs: env, cwd, user, tag, signal: context.signal });
  if (context.isJson) await context.printJson(started);
  else await context.print(`${started.pid} ${started.tag}`);
  return exitCodes.ok;
}

/**
 * Runs a command with its streams connected to ours and answers its exit code. The first interrupt becomes SIGTERM for
 * the command, the next one SIGKILL; its output is shown until it has ended.
 */
export async function execAttached(
  context: CommandContext,
  sandbox: SandboxHandle,
  command: string,
  args: readonly string[],
  options: ExecOptions,
): Promise<number> {
  const stream = await sandbox.execStream(command, {
    args: [...args],
    envs: options.env,
    cwd: options.cwd,
    user: options.user,
    tag: options.tag,
    timeout_sec: options.timeout,
    stdin: options.stdin === true,
    signal: context.signal,
  });
  let first: Interrupt | undefined;
  using _taken = context.interrupts.take((signal) => {
    // a signal that cannot be sent any more means the command or the connection ends anyway
    stream.signal(first === undefined ? "SIGTERM" : "SIGKILL").catch(() => undefined);
    first ??= signal;
  });
  if (options.stdin === true) passStdin(context, stream);
  try {
    const exitCode = await showOutput(context, stream);
    if (first !== undefined && exitCode > 128) throw new InterruptedError(first);
    return exitCode;
  } finally {
    stream.close();
    if (options.stdin === true) context.io.stdin.destroy();
  }
}

function passStdin(context: CommandContext, stream: ExecStream): void {
  // What fails here ends with the command: it may end without reading all its input, or the connection is lost,
  // and then reading its output tells.
  stream.writeAll(context.io.stdin as AsyncIterable<Buffer>).catch(() => undefined);
}

async function showOutput(context: CommandContext, stream: ExecStream): Promise<number> {
  if (context.isJson) await context.printJson({ type: "start", pid: stream.pid, tag: stream.tag });
  for await (const event of stream) {
    if (context.isJson) await context.printJson(jsonOf(event));
    else if (event.type !== "exit") await write(event.type === "stdout" ? context.io.stdout : context.io.stderr, event.data);
    if (event.type === "exit") return event.exitCode;
  }
  return exitCodes.error; // not reached: a stream ends with its exit event or throws
}

/** Text where the bytes are text, base64 (and saying so) where they are not. */
function jsonOf(event: ExecEvent): object {
  if (event.type === "exit") return { type: "exit", exit_code: event.exitCode };
  if (isUtf8(event.data)) return { type: event.type, data: event.data.toString("utf8") };
  return { type: event.type, data: event.data.toString("base64"), encoding: "base64" };
}
