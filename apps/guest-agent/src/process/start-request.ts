import { Code, ConnectError } from "@connectrpc/connect";
import {
  argsMax,
  commandLengthMax,
  envNameLengthMax,
  envsEntriesMax,
  envValueLengthMax,
  ptyColsMax,
  ptyRowsMax,
  tagLengthMax,
} from "@roost/contract";
import type { PTY, StartRequest } from "@roost/contract/gen/process/process_pb.js";

import type { ProcessConfig } from "./guest-process.ts";

const terminalDefault = { cols: 80, rows: 24 };

/** What a `StartRequest` asks, checked: every string can be given to the kernel, every number is in its limits. */
export interface CheckedStart {
  readonly config: ProcessConfig;
  readonly tag: string | undefined;
  readonly stdin: boolean;
  readonly terminal: TerminalSize | undefined;
}

export interface TerminalSize {
  readonly cols: number;
  readonly rows: number;
}

export function checkStart(request: StartRequest): CheckedStart {
  const { process } = request;
  if (process === undefined) throw invalid("process is missing");
  const { cmd, args, envs, cwd } = process;
  if (cmd === "") throw invalid("process.cmd is empty");
  checkText("process.cmd", cmd, commandLengthMax);
  if (args.length > argsMax) throw invalid(`process.args has ${args.length} entries; at most ${argsMax} are possible`);
  for (const [index, arg] of args.entries()) checkText(`process.args[${index}]`, arg, commandLengthMax);
  checkEnvs(envs);
  if (request.tag !== undefined) {
    if (request.tag === "") throw invalid("tag is empty");
    checkText("tag", request.tag, tagLengthMax);
  }
  return {
    config: { cmd, args, envs, cwd: cwd === "" ? undefined : cwd },
    tag: request.tag,
    stdin: request.stdin ?? true,
    terminal: request.pty === undefined ? undefined : checkSize(request.pty),
  };
}

export function checkSize(pty: PTY): TerminalSize {
  const { cols, rows } = pty.size ?? terminalDefault;
  if (cols < 1 || cols > ptyColsMax) throw invalid(`pty.size.cols is ${cols}; it must be 1 to ${ptyColsMax}`);
  if (rows < 1 || rows > ptyRowsMax) throw invalid(`pty.size.rows is ${rows}; it must be 1 to ${ptyRowsMax}`);
  return { cols, rows };
}

function checkEnvs(envs: Readonly<Record<string, string>>): void {
  const entries = Object.entries(envs);
  if (entries.length > envsEntriesMax) throw invalid(`process.envs has ${entries.length} entries; at most ${envsEntriesMax} are possible`);
  for (const [name, value] of entries) {
    if (name === "" || name.includes("=")) throw invalid("a name in process.envs is empty or holds '='");
    checkText("a name in process.envs", name, envNameLengthMax);
    checkText(`process.envs[${JSON.stringify(name)}]`, value, envValueLengthMax);
  }
}

function checkText(what: string, text: string, bytesMax: number): void {
  if (text.includes("\0")) throw invalid(`${what} holds NUL`);
  if (Buffer.byteLength(text) > bytesMax) throw invalid(`${what} is longer than ${bytesMax} bytes`);
}

function invalid(message: string): ConnectError {
  return new ConnectError(message, Code.InvalidArgument);
}
