import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, readdir, readlink, rm, stat, writeFile } from "node:fs/promises";
import { request as httpRequest } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { Code, ConnectError, createClient, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { Filesystem } from "@roost/contract/gen/filesystem/filesystem_pb.js";
import { poll } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterEach, beforeEach, expect, test } from "vitest";

import { runShell } from "../testing/run-process.ts";
import { as, builtLauncher, groupText, passwdText, startTestAgent, type TestAgent } from "../testing/test-agent.ts";
import { signFile } from "./signature.ts";

/** The files half inside the whole agent: its server, its token, its users, beside its processes. */
let agent: TestAgent;
let files: Client<typeof Filesystem>;
let folder: string;
const token = "t".repeat(40);

beforeEach(async () => {
  agent = await startTestAgent();
  files = createClient(Filesystem, createConnectTransport({ baseUrl: agent.url, httpVersion: "1.1", useBinaryFormat: false }));
  folder = await mkdtemp(join(tmpdir(), "roost-files-"));
});
afterEach(async () => {
  await agent[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const url = (path: string, query: Record<string, string> = {}) =>
  `${agent.url}/files?${new URLSearchParams({ path, ...query }).toString()}`;
const octets = { "content-type": "application/octet-stream" };

test("with a token, calls need it, and a signature opens one file", async () => {
  await fetch(`${agent.url}/init`, { method: "POST", body: JSON.stringify({ accessToken: token, defaultUser: "user" }) });
  await writeFile(join(folder, "f"), "content");
  const path = join(folder, "f");
  const error = await files.stat({ path }).catch((reason: unknown) => ConnectError.from(reason));
  expect(error).toMatchObject({ code: Code.Unauthenticated });
  expect((await files.stat({ path }, { headers: { "x-access-token": token } })).entry).toMatchObject({ size: 7n });
  expect((await fetch(url(path))).status).toBe(401);
  expect(await (await fetch(url(path), { headers: { "x-access-token": token } })).text()).toBe("content");
  const signature = signFile({ path, operation: "read", username: "", expiration: undefined }, token);
  expect(await (await fetch(url(path, { signature }))).text()).toBe("content");
  const wrong = await fetch(url(path, { signature: `${signature}x` }));
  expect([wrong.status, await wrong.json()]).toEqual([401, { code: 401, message: "invalid signature" }]);
  const compose = { method: "POST", body: JSON.stringify({ source_paths: [path], destination: join(folder, "g") }) };
  expect((await fetch(`${agent.url}/files/compose`, compose)).status).toBe(401);
  expect((await fetch(`${agent.url}/files/compose`, { ...compose, headers: { "x-access-token": token } })).status).toBe(200);
});

test("twenty megabytes go up and come down, and belong to the default user", async () => {
  const content = Buffer.from(new SeededRandom(11).bytes(20 * 1024 * 1024));
  const path = join(folder, "data.bin");
  expect((await fetch(url(path), { method: "POST", headers: octets, body: content })).status).toBe(200);
  expect(Buffer.from(await (await fetch(url(path))).arrayBuffer()).equals(content)).toBe(true);
  const stats = await stat(path);
  expect([stats.uid, stats.gid]).toEqual([1000, 1000]);
  expect((await files.stat({ path }, as("daemon"))).entry?.owner).toBe("user");
});

test("what a process does in a watched tree is told, and a browser's form is one write", async () => {
  const { watcherId } = await files.createWatcher({ path: folder, recursive: true });
  await runShell(agent, `mkdir -p ${folder}/a/b && echo x > ${folder}/a/b/f`, {}, as("root"));
  const form = new FormData();
  form.append("file", new Blob(["content"]), join(folder, "uploaded"));
  expect((await fetch(`${agent.url}/files`, { method: "POST", body: form })).status).toBe(200);
  const seen: string[] = [];
  await poll({ what: "the events", timeoutMs: 30_000 }, async () => {
    seen.push(...(await files.getWatcherEvents({ watcherId })).events.map((event) => event.name));
    return seen.includes("uploaded") ? true : undefined;
  });
  expect([...new Set(seen)]).toEqual(["a", "a/b", "a/b/f", "uploaded"]);
});

test("an agent that is killed in the middle of an upload leaves no file behind, and the old one as it was", async () => {
  const accounts = join(folder, "etc");
  await mkdir(accounts);
  await writeFile(join(accounts, "passwd"), passwdText);
  await writeFile(join(accounts, "group"), groupText);
  await mkdir(join(folder, "target"));
  await writeFile(join(folder, "target/f"), "old");
  const child = forkAgent(accounts);
  try {
    const [{ port }] = (await once(child, "message")) as [{ port: number }];
    const query = new URLSearchParams({ path: join(folder, "target/f") }).toString();
    const upload = httpRequest({
      port,
      host: "127.0.0.1",
      method: "POST",
      path: `/files?${query}`,
      headers: { ...octets, "content-length": 10_000_000 },
    });
    upload.on("error", () => undefined);
    upload.write(Buffer.alloc(5_000_000, 1));
    await poll({ what: "the upload under way", timeoutMs: 30_000 }, async () =>
      (await namelessSize(child.pid ?? 0)) > 1_000_000 ? true : undefined,
    );
    child.kill("SIGKILL");
    await once(child, "exit");
    expect(await readdir(join(folder, "target"))).toEqual(["f"]);
    expect(await readFile(join(folder, "target/f"), "utf8")).toBe("old");
  } finally {
    child.kill("SIGKILL");
  }
});

/** The agent as a process of its own, from source. */
function forkAgent(etcFolder: string): ChildProcess {
  const settings = ["--host", "127.0.0.1", "--port", "0", "--scan-interval-ms", "0", "--etc-folder", etcFolder, "--log-level", "error"];
  return fork(
    join(import.meta.dirname, "../main.ts"),
    [...settings, "--state-folder", join(folder, "state"), "--launcher", builtLauncher()],
    {
      execArgv: ["--conditions=@roost/source", "--import", "tsx"],
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    },
  );
}

/** Size of what a process has written to files without a name in our folder. */
async function namelessSize(pid: number): Promise<number> {
  for (const descriptor of await readdir(`/proc/${pid}/fd`)) {
    const path = `/proc/${pid}/fd/${descriptor}`;
    const target = await readlink(path).catch(() => "");
    if (target.startsWith(folder) && target.endsWith("(deleted)")) return (await stat(path)).size;
  }
  return 0;
}
