/** Wire format between the agent and `native/launcher.c`; the C file describes it. Both ends ship together. */

const frameType = { start: 1, kill: 2, release: 3, resize: 4, become: 5, scan: 6 } as const;
const recordType = { started: 1, failed: 2, exited: 3, done: 4, listener: 5 } as const;
/** Steps of `become`, as the launcher numbers them. */
export const becomeSteps = { entropy: 1, clock: 2, hostname: 3, files: 4 } as const;
const startFlag = { stdin: 1, terminal: 2, cwdOptional: 4 } as const;

/** Six u32. */
export const recordBytes = 24;

/** Longest frame in `bytes` the launcher takes; the kernel's limit for arguments and environment is lower. */
export const startFrameBytesMax = 8 * 1024 * 1024;

export interface StartFrame {
  readonly id: number;
  readonly argv: readonly string[];
  readonly envs: Readonly<Record<string, string>>;
  readonly cwd: string;
  /** Fall back to `/` where `cwd` cannot be entered: for a home folder nobody asked for by name. */
  readonly cwdOptional: boolean;
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  readonly stdin: boolean;
  /** `masterFd`: the agent's descriptor of the terminal's master side. */
  readonly terminal: { readonly masterFd: number; readonly cols: number; readonly rows: number } | undefined;
}

export type LauncherRecord =
  | {
      readonly kind: "started";
      readonly id: number;
      readonly pid: number;
      readonly stdin: number;
      readonly stdout: number;
      readonly stderr: number;
    }
  | { readonly kind: "failed"; readonly id: number; readonly stage: "setup" | "cwd" | "exec"; readonly errno: number }
  | { readonly kind: "exited"; readonly pid: number; readonly waitStatus: number }
  /** `step`: which of `becomeSteps` failed, or the file with the number `step - becomeSteps.files`; 0 for none */
  | { readonly kind: "done"; readonly id: number; readonly errno: number; readonly step: number }
  | { readonly kind: "listener"; readonly port: number; readonly ipv4: boolean; readonly ipv6: boolean };

export function encodeStart(start: StartFrame): Buffer {
  const environment = Object.entries(start.envs).map(([name, value]) => `${name}=${value}`);
  const flags =
    (start.stdin ? startFlag.stdin : 0) |
    (start.terminal === undefined ? 0 : startFlag.terminal) |
    (start.cwdOptional ? startFlag.cwdOptional : 0);
  const { masterFd = 0, cols = 0, rows = 0 } = start.terminal ?? {};
  const counts = [start.groups.length, masterFd, cols, rows, start.argv.length, environment.length];
  const words = [start.id, flags, start.uid, start.gid, ...counts, ...start.groups];
  const strings = Buffer.from(`${[start.cwd, ...start.argv, ...environment].join("\0")}\0`, "utf8");
  return frame(frameType.start, words, strings);
}

export function encodeKill(pid: number, signal: number): Buffer {
  return frame(frameType.kill, [pid, signal]);
}

/** Tells the launcher that the agent has opened the pipe ends of a process. */
export function encodeRelease(descriptors: readonly [number, number, number]): Buffer {
  return frame(frameType.release, descriptors);
}

export function encodeResize(pid: number, cols: number, rows: number): Buffer {
  return frame(frameType.resize, [pid, cols, rows]);
}

/** What a guest becomes after a restore. Undefined and empty: stays as it is. */
export interface BecomeFrame {
  readonly id: number;
  /** Credited to the kernel's generator, which is reseeded with it */
  readonly entropy: Uint8Array | undefined;
  /** Wall clock; may have a fraction */
  readonly unixMs: number | undefined;
  readonly hostname: string | undefined;
  readonly files: readonly BecomeFile[];
}

export interface BecomeFile {
  readonly path: string;
  /** Permissions of a file that is made anew */
  readonly mode: number;
  /** Without NUL; undefined: 16 fresh random bytes in hex */
  readonly content: string | undefined;
  /** `replace`: a new file takes its place as a whole. `in place`: bytes of an existing file are overwritten. `existing`: so, and where there is none nothing is made. */
  readonly how: "replace" | "in place" | "existing";
}

const howLetters = { replace: "", "in place": "i", existing: "ie" } as const satisfies Record<BecomeFile["how"], string>;

export function encodeBecome({ id, entropy, unixMs, hostname, files }: BecomeFrame): Buffer {
  const seconds = Math.floor((unixMs ?? 0) / 1_000);
  const nanoseconds = Math.min(Math.round(((unixMs ?? 0) - seconds * 1_000) * 1e6), 999_999_999);
  const strings = [hostname ?? ""];
  for (const { path, mode, content, how } of files) {
    strings.push(`${howLetters[how]}${content === undefined ? "r" : ""}${mode.toString(8)}`, path, content ?? "");
  }
  const words = [id, unixMs === undefined ? 0 : 1, seconds % 2 ** 32, Math.floor(seconds / 2 ** 32), nanoseconds, entropy?.length ?? 0];
  return frame(frameType.become, words, Buffer.concat([entropy ?? Buffer.alloc(0), Buffer.from(`${strings.join("\0")}\0`, "utf8")]));
}

/** Asks for `listener` records, looked for every `intervalMs`. */
export function encodeScan(intervalMs: number): Buffer {
  return frame(frameType.scan, [intervalMs]);
}

export function decodeRecord(bytes: Buffer, offset: number): LauncherRecord {
  const [type, id, a, b, c, d] = [0, 4, 8, 12, 16, 20].map((at) => bytes.readUInt32LE(offset + at)) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  switch (type) {
    case recordType.started:
      return { kind: "started", id, pid: a, stdin: b | 0, stdout: c | 0, stderr: d | 0 };
    case recordType.failed:
      return { kind: "failed", id, stage: a === 2 ? "cwd" : a === 3 ? "exec" : "setup", errno: b };
    case recordType.exited:
      return { kind: "exited", pid: id, waitStatus: a };
    case recordType.done:
      return { kind: "done", id, errno: a, step: b };
    case recordType.listener:
      return { kind: "listener", port: id, ipv4: (a & 1) !== 0, ipv6: (a & 2) !== 0 };
    default:
      throw new Error(`the launcher sent an unknown record of type ${type}`);
  }
}

function frame(type: number, words: readonly number[], tail?: Buffer): Buffer {
  const bytes = Buffer.alloc(8 + words.length * 4 + (tail?.length ?? 0));
  bytes.writeUInt32LE(bytes.length - 4, 0);
  bytes.writeUInt32LE(type, 4);
  for (const [index, word] of words.entries()) bytes.writeUInt32LE(word >>> 0, 8 + index * 4);
  if (tail !== undefined) bytes.set(tail, 8 + words.length * 4);
  return bytes;
}
