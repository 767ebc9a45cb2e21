import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";

import { roostProgram } from "./test-platform.ts";

/** Newest part of the output that is kept, in characters */
const outputLengthMax = 200_000;
/** Time an orderly end may take in `ms` */
const stopTimeoutMs = 60_000;

export interface ServerOptions {
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  /** Network namespace that it runs in; default: the test's own */
  readonly namespace?: string;
}

/** `roost` as a server, in a process of its own, with what it prints. */
export class ServerProcess {
  readonly #child: ChildProcess;
  #output = "";

  constructor({ args, env, namespace }: ServerOptions) {
    // nsenter becomes the program: the pid is its own. Mounts stay those of the machine, as they are for agents that do not share one
    const command = [roostProgram, ...args];
    const [program = "", ...rest] = namespace === undefined ? command : ["nsenter", `--net=/run/netns/${namespace}`, ...command];
    this.#child = spawn(program, rest, { env, stdio: ["ignore", "pipe", "pipe"] });
    const keep = (chunk: Buffer) => {
      this.#output = (this.#output + chunk.toString()).slice(-outputLengthMax);
    };
    this.#child.stdout?.on("data", keep);
    this.#child.stderr?.on("data", keep);
  }

  get output(): string {
    return this.#output;
  }

  get isRunning(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Throws with what it said last when it has ended. */
  check(): void {
    if (!this.isRunning) throw new Error(`it ended with ${this.#child.exitCode ?? this.#child.signalCode}: ${this.#output.slice(-3_000)}`);
  }

  /** Ends it, and answers its exit code; null: by the signal. */
  async end(signal: "SIGTERM" | "SIGKILL"): Promise<number | null> {
    if (this.isRunning) {
      const exited = once(this.#child, "exit", { signal: AbortSignal.timeout(stopTimeoutMs) });
      this.#child.kill(signal);
      await exited;
    }
    return this.#child.exitCode;
  }
}
