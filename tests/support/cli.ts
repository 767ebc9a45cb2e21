import { spawn } from "node:child_process";
import { once } from "node:events";

import { roostProgram, type TestPlatform } from "./test-platform.ts";

export interface CliResult {
  readonly exitCode: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** Longest a CLI call may take in `ms` unless a test says otherwise: enough to create a sandbox by a cold boot. */
const callTimeoutMs = 120_000;

/** Runs `roost` as a user would, against the test's platform. */
export async function roost(
  platform: TestPlatform,
  args: readonly string[],
  input: Buffer | string = "",
  timeoutMs = callTimeoutMs,
): Promise<CliResult> {
  const child = spawn(roostProgram, args, { env: platform.environment, stdio: "pipe" });
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk));
  child.stdin.on("error", () => undefined); // a command may end without reading its input
  child.stdin.end(input);
  const timer = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
  const [exitCode] = (await once(child, "close")) as [number | null];
  clearTimeout(timer);
  return { exitCode, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString() };
}
