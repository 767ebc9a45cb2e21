import { execFileSync, fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { createClient, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { Process } from "@roost/contract/gen/process/process_pb.js";
import { must } from "@roost/kit";

import { groupText, passwdText } from "./test-agent.ts";

const root = join(import.meta.dirname, "../..");

/** The agent as it is shipped, in a process of its own: what may kill it or fill its memory. */
export interface AgentChild extends AsyncDisposable {
  readonly pid: number;
  readonly port: number;
  readonly url: string;
  readonly processes: Client<typeof Process>;
  /** Log lines so far. */
  log(): string;
  /** `undefined` while it runs. */
  exitCode(): number | null | undefined;
  residentBytes(): number;
  descriptors(): number;
  /** Ends it the hard way and starts another on the same state. */
  crashAndRestart(): Promise<AgentChild>;
}

/** Builds `dist/agent` when it is absent or older than a source. */
function bundle(): string {
  const built = statSync(join(root, "dist/agent/agent.mjs"), { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const sources = [join(root, "build.mjs"), join(root, "native/launcher.c"), ...sourceFiles(join(root, "src"))];
  if (sources.some((path) => statSync(path).mtimeMs > built)) execFileSync(process.execPath, [join(root, "build.mjs")], { stdio: "pipe" });
  return join(root, "dist/agent/agent.mjs");
}

function sourceFiles(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts") && !name.endsWith(".test.ts"))
    .map((name) => join(folder, name));
}

export async function startAgentChild(folderGiven?: string): Promise<AgentChild> {
  const folder = folderGiven ?? mkdtempSync(join(tmpdir(), "roost-guest-"));
  mkdirSync(join(folder, "etc"), { recursive: true });
  writeFileSync(join(folder, "etc/passwd"), passwdText);
  writeFileSync(join(folder, "etc/group"), groupText);
  const flags = {
    port: "0",
    host: "127.0.0.1",
    "state-folder": join(folder, "state"),
    "etc-folder": join(folder, "etc"),
    "scan-interval-ms": "0",
  };
  const child = fork(
    bundle(),
    Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]),
    { stdio: ["ignore", "pipe", "pipe", "ipc"], execArgv: [], env: { PATH: process.env["PATH"] ?? "" } },
  );
  let log = "";
  for (const stream of [child.stdout, child.stderr]) stream?.on("data", (bytes: Buffer) => (log += bytes.toString()));
  const port = await firstMessage(child, () => log);
  const pid = must(child.pid, "pid of the agent");
  const end = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  };
  return {
    pid,
    port,
    url: `http://127.0.0.1:${port}`,
    processes: createClient(
      Process,
      createConnectTransport({ baseUrl: `http://127.0.0.1:${port}`, httpVersion: "1.1", useBinaryFormat: true }),
    ),
    log: () => log,
    exitCode: () => (child.exitCode === null && child.signalCode === null ? undefined : child.exitCode),
    residentBytes: () => Number(/VmRSS:\s+(?<kib>\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.groups?.["kib"]) * 1024,
    descriptors: () => readdirSync(`/proc/${pid}/fd`).length,
    async crashAndRestart() {
      await end();
      return startAgentChild(folder);
    },
    async [Symbol.asyncDispose]() {
      await end();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

async function firstMessage(child: ChildProcess, log: () => string): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once("message", (message) => resolve((message as { readonly port: number }).port));
    child.once("exit", () => reject(new Error(`the agent ended before it listened: ${log()}`)));
  });
}
