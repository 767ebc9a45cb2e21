import { fork } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The guest agent as `npm run build -w @roost/guest-agent` makes it. */
const bundle = fileURLToPath(new URL("../../../guest-agent/dist/agent/agent.mjs", import.meta.url));

/** Why the real guest agent cannot be tested with here; undefined when it can. */
export function whyNoRealGuest(): string | undefined {
  if (process.getuid?.() !== 0) return "the guest agent needs root";
  if (!existsSync(bundle)) return "the guest agent is not built: npm run build -w @roost/guest-agent";
  return undefined;
}

export interface RealGuest extends AsyncDisposable {
  readonly port: number;
}

/** Runs the real guest agent as a process of this machine, on a free port, with its state in a folder of its own. */
export async function startRealGuest(): Promise<RealGuest> {
  const folder = await mkdtemp(join(tmpdir(), "roost-real-guest-"));
  const flags = [
    "--port",
    "0",
    "--host",
    "127.0.0.1",
    "--state-folder",
    join(folder, "state"),
    "--scan-interval-ms",
    "0",
    "--log-level",
    "error",
  ];
  const child = fork(bundle, flags, { stdio: ["ignore", "ignore", "inherit", "ipc"] });
  const port = await new Promise<number>((resolve, reject) => {
    child.once("message", (message) => resolve((message as { port: number }).port));
    child.once("exit", (code) => reject(new Error(`the guest agent ended with ${code}`)));
  });
  return {
    port,
    [Symbol.asyncDispose]: async () => {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      await ended;
      await rm(folder, { recursive: true, force: true });
    },
  };
}
