import { rmSync } from "node:fs";

import { identifyProcess, isAlive, must, writeFileDurably, type ProcessIdentity } from "@roost/kit";

import { apiKeyPath, endpointPath, readEndpoint, type Endpoint } from "../settings.ts";
import { version } from "../version.ts";

/** Others may pass through: VMMs run as users of their own, and commands of other users find `endpoint.json`. */
export const stateFolderMode = 0o755;

/** A platform that runs in a state folder. */
export interface RunningPlatform {
  readonly endpoint: Endpoint;
  readonly identity: ProcessIdentity;
}

/** Undefined when none runs: nothing was written, or its process is gone. */
export async function findRunning(dir: string): Promise<RunningPlatform | undefined> {
  const endpoint = await readEndpoint(dir);
  if (endpoint === undefined) return undefined;
  const identity = { pid: endpoint.pid, startTicks: endpoint.startTicks };
  return (await isAlive(identity)) ? { endpoint, identity } : undefined;
}

/** Tells clients where this process listens. */
export async function writeEndpoint(dir: string, url: string, tlsUrl?: string): Promise<void> {
  const { pid, startTicks } = must(await identifyProcess(process.pid), "a process can identify itself");
  const endpoint: Endpoint = {
    formatVersion: 1,
    url,
    ...(tlsUrl === undefined ? {} : { tlsUrl }),
    version,
    pid,
    startTicks,
    startedAt: new Date().toISOString(),
  };
  await writeFileDurably(endpointPath(dir), `${JSON.stringify(endpoint, undefined, 2)}\n`);
}

/** Synchronous, so that a forced end can do it too. */
export function removeEndpoint(dir: string): void {
  rmSync(endpointPath(dir), { force: true });
}

/** Readable by its owner only. */
export async function writeApiKey(dir: string, key: string): Promise<void> {
  await writeFileDurably(apiKeyPath(dir), `${key}\n`, { mode: 0o600 });
}
