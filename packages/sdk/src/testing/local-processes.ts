import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";

import {
  execStreamClientSchema,
  ptyClientSchema,
  webSocketBufferedBytesMax,
  type ExecBody,
  type ExecStreamServerMessage,
  type Process,
  type PtyServerMessage,
} from "@roost/contract";
import { spawn as spawnTerminal, type IPty } from "@lydell/node-pty";
import type { WebSocket } from "ws";

import { FakeError, jsonOf } from "./fake-call.ts";

interface Running {
  readonly child: ChildProcess;
  readonly tag: string;
  readonly cmd: string;
  readonly args: string[];
}

type Command = Pick<ExecBody, "cmd" | "args" | "envs" | "cwd">;

/** Ordinary processes that stand for a guest's, spoken to in the native API's messages. */
export class LocalProcesses {
  readonly #home: string;
  readonly #envs: Readonly<Record<string, string>>;
  readonly #running = new Map<number, Running>();
  readonly #terminals = new Map<string, IPty>();
  #count = 0;

  constructor(home: string, envs: Readonly<Record<string, string>>) {
    this.#home = home;
    this.#envs = envs;
  }

  list(): Process[] {
    const ofTerminals = [...this.#terminals].map(([tag, terminal]) => ({ pid: terminal.pid, tag, cmd: terminal.process, args: [] }));
    return [...[...this.#running.values()].map(({ child, tag, cmd, args }) => ({ pid: child.pid ?? 0, tag, cmd, args })), ...ofTerminals];
  }

  async exec(sandboxId: string, body: ExecBody) {
    const { child, tag } = this.#start(body, body.tag);
    await started(child);
    if (body.background) return { sandbox_id: sandboxId, cmd: body.cmd, pid: child.pid, tag };
    child.stdin?.end(body.stdin ?? "");
    const output = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
    child.stdout?.on("data", (chunk: Buffer) => output.stdout.push(chunk));
    child.stderr?.on("data", (chunk: Buffer) => output.stderr.push(chunk));
    await once(child, "close");
    const text = (chunks: Buffer[]) => Buffer.concat(chunks).toString("utf8");
    const code = exitCodeOf(child);
    return {
      sandbox_id: sandboxId,
      cmd: body.cmd,
      stdout: text(output.stdout),
      stderr: text(output.stderr),
      exit_code: code,
      duration_ms: 1,
      encoding: "utf-8",
    };
  }

  signal(selector: string, signal: NodeJS.Signals): void {
    kill(this.#find(selector).child, signal);
  }

  stream(socket: WebSocket): void {
    let running: Running | undefined;
    let toStdin = Promise.resolve();
    let closed: Promise<unknown> = Promise.resolve();
    const send = (message: ExecStreamServerMessage) => socket.send(JSON.stringify(message));
    socket.on("message", (data) => {
      const message = execStreamClientSchema.parse(jsonOf(data));
      const child = running?.child;
      switch (message.type) {
        case "start":
          running = this.#start(message, message.tag);
          closed = new Promise((resolve) => running?.child.once("close", resolve));
          if (!message.stdin) running.child.stdin?.end();
          this.#pump(running, socket).catch((error: unknown) => {
            send({ type: "error", code: "request_invalid", data: String(error) });
            socket.close();
          });
          break;
        case "stdin":
          // a full pipe stops reading the socket, which is what slows the client
          toStdin = toStdin.then(async () => {
            if (child?.stdin?.write(Buffer.from(message.data, "base64")) === false) {
              socket.pause();
              await Promise.race([new Promise((resolve) => child.stdin?.once("drain", resolve)), closed]);
              socket.resume();
            }
          });
          break;
        case "stdin_close":
          toStdin = toStdin.then(() => void child?.stdin?.end());
          break;
        case "stop":
          if (child !== undefined) kill(child, "SIGTERM");
          break;
        case "signal":
          if (child !== undefined) kill(child, message.signal);
          break;
      }
    });
    socket.on("close", () => {
      if (running !== undefined) kill(running.child, "SIGKILL");
    });
  }

  attach(socket: WebSocket, selector: string): void {
    try {
      this.#pump(this.#find(selector), socket).catch(() => socket.terminate());
    } catch {
      socket.send(JSON.stringify({ type: "error", code: "process_not_found", data: `there is no process ${selector}` }));
      socket.close();
    }
  }

  terminal(socket: WebSocket): void {
    let terminal: IPty | undefined;
    const send = (message: PtyServerMessage) => socket.send(JSON.stringify(message));
    const connect = (tag: string, found: IPty) => {
      terminal = found;
      send({ type: "started", tag, pid: found.pid });
      const output = found.onData((data) => send({ type: "output", data: Buffer.from(data).toString("base64") }));
      found.onExit(({ exitCode, signal }) => {
        this.#terminals.delete(tag);
        send({ type: "exit", exit_code: signal === undefined || signal === 0 ? exitCode : 128 + signal });
        socket.close();
      });
      socket.on("close", () => output.dispose());
    };
    socket.on("message", (data) => {
      const message = ptyClientSchema.parse(jsonOf(data));
      switch (message.type) {
        case "start": {
          const tag = message.tag ?? `pty-${++this.#count}`;
          const env = { PATH: process.env["PATH"] ?? "", TERM: "xterm", HOME: this.#home, ...this.#envs, ...message.envs };
          const created = spawnTerminal(message.cmd, message.args, { cols: message.cols, rows: message.rows, cwd: this.#home, env });
          this.#terminals.set(tag, created);
          connect(tag, created);
          break;
        }
        case "connect": {
          const found = this.#terminals.get(message.tag);
          if (found !== undefined) connect(message.tag, found);
          else send({ type: "error", code: "process_not_found", data: `there is no terminal ${message.tag}`, fatal: true });
          break;
        }
        case "input":
          terminal?.write(Buffer.from(message.data, "base64").toString("utf8"));
          break;
        case "resize":
          terminal?.resize(message.cols, message.rows);
          break;
        case "kill":
          terminal?.kill("SIGKILL");
          break;
      }
    });
  }

  async endAll(): Promise<void> {
    for (const terminal of this.#terminals.values()) terminal.kill("SIGKILL");
    for (const { child } of this.#running.values()) kill(child, "SIGKILL");
  }

  #find(selector: string): Running {
    const found = [...this.#running.values()].find(({ child, tag }) => tag === selector || String(child.pid) === selector);
    if (found === undefined) throw new FakeError("process_not_found", `there is no process ${selector}`);
    return found;
  }

  #start(command: Command, givenTag: string | undefined): Running {
    const tag = givenTag ?? `proc-${++this.#count}`;
    const child = spawn(command.cmd, command.args, {
      cwd: command.cwd === undefined || command.cwd === "~" ? this.#home : command.cwd,
      env: { PATH: process.env["PATH"] ?? "", HOME: this.#home, ...this.#envs, ...command.envs },
      stdio: ["pipe", "pipe", "pipe"],
      detached: true,
    });
    child.stdin.on("error", () => undefined); // a process that does not read its input shows in its exit code
    const running = { child, tag, cmd: command.cmd, args: command.args };
    child.once("spawn", () => this.#running.set(child.pid ?? 0, running));
    child.once("close", () => this.#running.delete(child.pid ?? 0));
    return running;
  }

  async #pump({ child, tag }: Running, socket: WebSocket): Promise<void> {
    await started(child);
    const send = (message: ExecStreamServerMessage) => socket.send(JSON.stringify(message));
    send({ type: "start", pid: child.pid ?? 0, tag });
    const pump = async (type: "stdout" | "stderr") => {
      for await (const chunk of child[type] as AsyncIterable<Buffer>) {
        send({ type, data: chunk.toString("base64") });
        while (socket.bufferedAmount > webSocketBufferedBytesMax && socket.readyState === socket.OPEN) {
          await new Promise((resolve) => setTimeout(resolve, 1));
        }
      }
    };
    const closed = once(child, "close");
    await Promise.all([pump("stdout"), pump("stderr")]);
    await closed;
    send({ type: "exit", exit_code: exitCodeOf(child) });
    socket.close();
  }
}

async function started(child: ChildProcess): Promise<void> {
  if (child.pid !== undefined) return;
  const [error] = (await once(child, "error")) as [Error];
  throw new FakeError("request_invalid", error.message);
}

const signalNumbers: Readonly<Record<string, number>> = { SIGINT: 2, SIGKILL: 9, SIGTERM: 15 };
function exitCodeOf(child: ChildProcess): number {
  return child.exitCode ?? 128 + (signalNumbers[child.signalCode ?? ""] ?? 0);
}

function kill(child: ChildProcess, signal: NodeJS.Signals): void {
  try {
    if (child.pid !== undefined) process.kill(-child.pid, signal);
  } catch {
    // already gone
  }
}
