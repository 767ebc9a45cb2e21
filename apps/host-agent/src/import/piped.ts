import { spawn } from "node:child_process";
import type { Readable, Writable } from "node:stream";

import { CommandError, KiB } from "@roost/kit";

import { containedEnvironment } from "./contained.ts";

export interface Piped {
  readonly stdin: Writable;
  readonly stdout: Readable;
  /** Resolves when the program has ended with 0, else rejects with a `CommandError` */
  readonly ended: Promise<void>;
}

export interface PipedOptions {
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  readonly env?: Readonly<Record<string, string>>;
}

/** What is kept of a program's messages, the end of them */
const stderrBytesMax = 16 * KiB;

/** Starts a program whose input and output are streams. It is killed when its time is up or the signal aborts. */
export function startPiped(command: readonly [string, ...string[]], options: PipedOptions): Piped {
  const [program, ...args] = command;
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "pipe"], env: containedEnvironment(options.env) });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr = (stderr + text).slice(-stderrBytesMax)));
  const ended = new Promise<void>((resolve, reject) => {
    let failure: string | undefined;
    const kill = (why: string) => {
      failure ??= why;
      child.kill("SIGKILL");
    };
    const timer = setTimeout(() => kill(`took longer than ${options.timeoutMs / 1_000} s`), options.timeoutMs);
    const onAbort = () => kill("was aborted");
    options.signal.addEventListener("abort", onAbort, { once: true });
    if (options.signal.aborted) onAbort();
    const finish = (how: string | undefined, code: number | null) => {
      clearTimeout(timer);
      options.signal.removeEventListener("abort", onAbort);
      if (how === undefined) resolve();
      else reject(new CommandError(command, how, code, stderr));
    };
    child.on("error", (error) => finish(`could not start (${error.message})`, null));
    child.on("close", (code, signal) => {
      const how = code === 0 ? undefined : signal === null ? `exited with ${code}` : `was ended by ${signal}`;
      finish(failure ?? how, code);
    });
  });
  ended.catch(() => undefined); // whoever uses the streams awaits it in the end, maybe after one of them has failed
  child.stdin.on("error", () => undefined); // a program that ends before its input does shows in its exit code
  return { stdin: child.stdin, stdout: child.stdout, ended };
}
