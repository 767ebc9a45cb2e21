/**
 * What `npm run quickstart` ends with: a real program on real input in a sandbox, and the same program on this machine.
 * Their reports must be equal.
 */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { poll, run } from "@roost/kit";
import type { SandboxHandle } from "@roost/sdk";

import { localPlatform, type LocalPlatform } from "../local-platform.ts";

const lockFile = fileURLToPath(new URL("../../package-lock.json", import.meta.url));
const program = fileURLToPath(new URL("report.py", import.meta.url));

const platform = await localPlatform();
step("creating a sandbox from base");
const created = performance.now();
const { id, versions } = await platform.client.sandboxes.create({ template: "base", metadata: { made_by: "quickstart" } });
const sandbox = platform.client.sandbox(id);
try {
  step(`sandbox ${id} runs kernel ${versions["kernel"]} (${versions["accelerator"]}) after ${seconds(created)}`);
  await comparePrograms(sandbox);
  await askNode(sandbox);
  await askServer(sandbox);
} finally {
  await sandbox.delete();
}
sayWhatNext(platform);

/** The guest's report and the host's, from the same program and the same lock file, must be the same bytes. */
async function comparePrograms(guest: SandboxHandle): Promise<void> {
  step("uploading package-lock.json and report.py");
  await guest.files.write("package-lock.json", await readFile(lockFile));
  await guest.files.write("report.py", await readFile(program));

  step("running report.py in the sandbox");
  const stream = await guest.execStream("python3", { args: ["report.py", "package-lock.json", "report.json"] });
  for await (const event of stream) {
    if (event.type === "exit") {
      if (event.exitCode !== 0) throw new Error(`report.py exited with ${event.exitCode} in the sandbox`);
    } else process.stdout.write(event.data);
  }
  const fromGuest = await guest.files.readBytes("report.json");

  step("running the same program on this machine");
  const scratch = await mkdtemp(join(tmpdir(), "roost-demo-"));
  try {
    const file = join(scratch, "report.json");
    await run(["python3", program, lockFile, file]);
    const fromHost = await readFile(file);
    if (!fromGuest.equals(fromHost)) throw new Error("the two reports differ: please report this");
    step(`the reports are equal (${fromHost.length} bytes)`);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function askNode(guest: SandboxHandle): Promise<void> {
  const { stdout } = await guest.exec("node", { args: ["-p", "`node ${process.version} on ${os.type()} ${os.release()}`"] });
  step(`node answers: ${stdout.trim()}`);
}

/** A server that keeps running after the call that started it, asked from inside. */
async function askServer(guest: SandboxHandle): Promise<void> {
  const { tag } = await guest.execBackground("python3", { args: ["-m", "http.server", "8000", "--bind", "127.0.0.1"] });
  const answer = await poll({ what: "the guest's web server", timeoutMs: 30_000, intervalMs: 200 }, async () => {
    const { stdout, exit_code } = await guest.exec("curl", { args: ["-fsS", "http://127.0.0.1:8000/report.json"] });
    return exit_code === 0 ? stdout : undefined;
  });
  step(`the background web server (${tag}) serves the report: ${JSON.parse(answer).packages} packages`);
}

function sayWhatNext({ url, apiKey }: LocalPlatform): void {
  process.stdout.write(`
Roost is running.

  URL      ${url}        (API reference: ${url}/docs)
  API key  ${apiKey}

Try next:

  npx roost run -- sh -c 'uname -a'      a command in a sandbox of its own
  npx roost create                       a sandbox that stays; it prints its id
  npx roost shell <id>                   a terminal in it
`);
}

function step(text: string): void {
  process.stdout.write(`» ${text}\n`);
}

function seconds(since: number): string {
  return `${((performance.now() - since) / 1000).toFixed(1)} s`;
}
