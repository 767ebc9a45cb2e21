import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { endProcess, identifyProcess, poll, sleep } from "@roost/kit";

import { CliError } from "../failure.ts";
import { findRunning, stateFolderMode, type RunningPlatform } from "./endpoint.ts";

/** Time a platform may take to answer in `ms`: the first start makes a database and probes the accelerator. */
const startTimeoutMs = 120_000;
/** Last words of a failed start that are shown in characters. */
const lastWordsMax = 2_000;

export const logPath = (dir: string) => join(dir, "logs", "roost.log");
/** What the process says outside its log, which is only what it says when it fails; started anew each time. */
const outputPath = (dir: string) => join(dir, "logs", "roost.out");

/** Starts this same program as a server in a session of its own, and waits until it is healthy. */
export async function startDetached(dir: string, flags: readonly string[], signal: AbortSignal): Promise<RunningPlatform> {
  mkdirSync(dir, { recursive: true, mode: stateFolderMode });
  mkdirSync(join(dir, "logs"), { recursive: true, mode: 0o750 });
  const output = openSync(outputPath(dir), "w", 0o640);
  const program = process.argv[1] ?? "";
  const args = [...process.execArgv, program, "up", ...flags, "--log-file", logPath(dir)];
  const child = spawn(process.execPath, args, { detached: true, stdio: ["ignore", output, output], cwd: "/" });
  closeSync(output);
  let ended: string | undefined;
  child.once("error", (error) => (ended = error.message));
  child.once("exit", (code, by) => (ended = by === null ? `exit code ${code}` : `signal ${by}`));
  try {
    const running = await poll({ what: "the platform's first answer", timeoutMs: startTimeoutMs, intervalMs: 50, signal }, async () => {
      if (ended !== undefined) return { ended };
      const found = await findRunning(dir);
      if (found?.identity.pid !== child.pid || found === undefined) return undefined;
      return (await isHealthy(found.endpoint.url, signal)) ? { found } : undefined;
    });
    if ("found" in running) {
      child.unref();
      return running.found;
    }
    throw new CliError(`the platform did not start (${running.ended})${lastWords(dir)}`, { hint: `its log is ${logPath(dir)}` });
  } catch (error) {
    if (ended === undefined && child.pid !== undefined) {
      const identity = await identifyProcess(child.pid);
      if (identity !== undefined) await endProcess(identity, { graceMs: 10_000 });
      await sleep(0);
    }
    throw error;
  }
}

async function isHealthy(url: string, signal: AbortSignal): Promise<boolean> {
  const answer = await fetch(new URL("/health", url), { signal: AbortSignal.any([signal, AbortSignal.timeout(5_000)]) });
  await answer.body?.cancel();
  return answer.ok;
}

function lastWords(dir: string): string {
  const text = readFileSync(outputPath(dir), "utf8").trim().slice(-lastWordsMax);
  return text === "" ? "" : `:\n${text.replace(/^error: /, "")}`;
}
