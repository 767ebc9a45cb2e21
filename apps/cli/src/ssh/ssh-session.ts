import type { Writable } from "node:stream";

import { ptyColsMax, ptyRowsMax } from "@roost/contract";
import { RoostError, type ExecStream, type PtySession, type SandboxHandle } from "@roost/sdk";
import type { PseudoTtyInfo, ServerChannel, Session } from "ssh2";

import { printable } from "../output/printable.ts";
import { loginShell, sendSignal, shellCommand, startSftpServer, type Program } from "./guest-programs.ts";

/** Environment variables that one session may set, and characters of each: clients send a handful. */
const variablesMax = 64;
const variableLengthMax = 4096;
/** Exit code of what could not be started, as shells have it */
const notStarted = 127;

export interface SshSessionOptions {
  readonly sandbox: SandboxHandle;
  /** undefined: the sandbox's default one */
  readonly user: string | undefined;
  /** Aborts when the client is gone */
  readonly gone: AbortSignal;
}

interface Size {
  readonly cols: number;
  readonly rows: number;
}

/** One session channel of an SSH client: a command, a shell or an SFTP server in the sandbox, with or without a terminal. */
export class SshSession {
  readonly #options: SshSessionOptions;
  readonly #envs: Record<string, string> = {};
  #terminal: Size | undefined;
  #running: ExecStream | PtySession | undefined;
  #onResize: ((size: Size) => void) | undefined;

  constructor(session: Session, options: SshSessionOptions) {
    this.#options = options;
    session.on("env", (accept: (() => void) | undefined, reject: (() => void) | undefined, { key, val }: { key: string; val: string }) => {
      const isTaken = this.#setVariable(key, val);
      (isTaken ? accept : reject)?.();
    });
    session.on("pty", (accept, _reject, info) => {
      this.#terminal = sizeOf(info);
      const { term } = info as PseudoTtyInfo & { term?: string };
      if (term !== undefined && term !== "") this.#setVariable("TERM", term);
      accept();
    });
    session.on("window-change", (accept: (() => void) | undefined, _reject, info) => {
      this.#onResize?.(sizeOf(info));
      accept?.();
    });
    session.on("signal", (accept: (() => void) | undefined, _reject, { name }) => {
      accept?.();
      void this.#signal(name);
    });
    session.on("shell", (accept) => this.#begin(accept(), loginShell));
    session.on("exec", (accept, _reject, { command }) => this.#begin(accept(), shellCommand(command)));
    session.on("subsystem", (accept, reject, { name }) => {
      if (name !== "sftp") return reject();
      const channel = accept();
      void this.#serve(channel, async () =>
        this.#serveStreams(channel, await startSftpServer(options.sandbox, this.#setting, options.gone)),
      );
    });
  }

  get #setting() {
    return { user: this.#options.user, envs: this.#envs };
  }

  #setVariable(name: string, value: string): boolean {
    const isFine = name !== "" && !/[=\0]/.test(name) && !value.includes("\0") && name.length + value.length <= variableLengthMax;
    if (!isFine || (!Object.hasOwn(this.#envs, name) && Object.keys(this.#envs).length >= variablesMax)) return false;
    this.#envs[name] = value;
    return true;
  }

  #begin(channel: ServerChannel, { cmd, args }: Program): void {
    const { sandbox, gone: signal } = this.#options;
    const terminal = this.#terminal;
    void this.#serve(channel, async () => {
      if (terminal === undefined) {
        return this.#serveStreams(channel, await sandbox.execStream(cmd, { ...this.#setting, args, stdin: true, signal }));
      }
      return this.#serveTerminal(channel, await sandbox.pty({ ...this.#setting, cmd, args, ...terminal, signal }));
    });
  }

  /** Runs what a channel is for, and ends the channel with its exit code. */
  async #serve(channel: ServerChannel, work: () => Promise<number>): Promise<void> {
    channel.on("error", () => undefined); // its end says as much
    channel.stderr.on("error", () => undefined);
    channel.pause(); // until somebody takes what comes
    try {
      channel.exit(await work());
    } catch (error) {
      if (this.#options.gone.aborted) return;
      const message = printable(error instanceof Error ? error.message : String(error));
      await write(channel, channel.stderr, Buffer.from(`roost: ${message}\r\n`));
      channel.exit(error instanceof RoostError && error.is("request_invalid") ? notStarted : 255);
    }
    channel.end();
  }

  async #serveStreams(channel: ServerChannel, stream: ExecStream): Promise<number> {
    this.#running = stream;
    try {
      channel.once("close", () => stream.close()); // the platform ends a command that nobody listens to
      passInput(
        channel,
        async (bytes) => stream.write(bytes),
        async () => stream.closeStdin(),
      );
      for await (const event of stream) {
        if (event.type === "exit") return event.exitCode;
        await write(channel, event.type === "stdout" ? channel : channel.stderr, event.data);
      }
      return 255; // not reached while the channel is open
    } finally {
      stream.close();
    }
  }

  async #serveTerminal(channel: ServerChannel, terminal: PtySession): Promise<number> {
    this.#running = terminal;
    try {
      // As a terminal that was closed: nobody could come back to it
      channel.once("close", () => void terminal.kill().catch(() => undefined));
      this.#onResize = ({ cols, rows }) => void terminal.resize(cols, rows).catch(() => undefined);
      passInput(
        channel,
        async (bytes) => terminal.write(bytes),
        async () => undefined,
      );
      for await (const event of terminal) {
        if (event.type === "exit") return event.exitCode;
        if (event.type === "output") await write(channel, channel, event.data);
        else await write(channel, channel.stderr, Buffer.from(`\r\n[${printable(event.message)}]\r\n`));
      }
      return 255;
    } finally {
      terminal.close();
    }
  }

  async #signal(name: string): Promise<void> {
    const { sandbox, user, gone } = this.#options;
    if (this.#running === undefined) return;
    await sendSignal(sandbox, this.#running.pid, name, user, gone).catch(() => undefined); // SSH has no answer that could say so
  }
}

/** Input as it comes; while a piece is on its way the channel is not read, so the client's window closes. */
function passInput(channel: ServerChannel, take: (bytes: Buffer) => Promise<void>, end: () => Promise<void>): void {
  // What cannot be written any more belongs to a program that has ended, which its output tells.
  let taken = Promise.resolve();
  channel.on("data", (bytes: Buffer) => {
    channel.pause();
    taken = take(bytes)
      .catch(() => undefined)
      .then(() => void channel.resume());
  });
  channel.once("end", () => void taken.then(end).catch(() => undefined));
  channel.resume();
}

/** Resolves when the client has room for more, or is gone. One piece at a time, of both streams together. */
async function write(channel: ServerChannel, stream: Writable, bytes: Buffer): Promise<void> {
  if (!stream.writable) return;
  await new Promise<void>((resolve) => {
    channel.once("close", resolve); // of the two, only the channel itself tells it
    stream.write(bytes, () => {
      channel.off("close", resolve);
      resolve();
    });
  });
  // The library (ssh2 1.17, `lib/Channel.js`) never forgets a piece that waited for the client's window. When one of the other stream waits, it
  // would send the first again instead, and the second never.
  Object.assign(channel, { _chunk: undefined, _chunkcb: undefined, _chunkErr: undefined, _chunkcbErr: undefined });
}

function sizeOf({ cols, rows }: { readonly cols: number; readonly rows: number }): Size {
  const clamp = (value: number, otherwise: number, max: number) => (value < 1 ? otherwise : Math.min(value, max));
  return { cols: clamp(cols, 80, ptyColsMax), rows: clamp(rows, 24, ptyRowsMax) };
}
