import { execFile, spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { connect, createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";

import { poll } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";

import { TestBundle } from "../testing/bundle.ts";
import { TestCli } from "../testing/test-cli.ts";

/** The stock OpenSSH programs against `roost ssh`; its sandboxes are folders and processes of this machine. */

let bundle: TestBundle;
let cli: TestCli;
let id: string;
let home: string;
beforeAll(async () => {
  bundle = await TestBundle.build();
}, 60_000);
afterAll(() => bundle[Symbol.asyncDispose]());
beforeEach(async () => {
  cli = await TestCli.start();
  ({ id, home } = await cli.sandbox());
});
afterEach(() => cli[Symbol.asyncDispose]());

interface Ended {
  readonly code: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

function environment(): Record<string, string> {
  return { PATH: process.env["PATH"] ?? "", HOME: cli.folder, ...cli.environment };
}

async function program(
  file: string,
  args: readonly string[],
  input: Buffer | string = "",
  more: Record<string, string> = {},
): Promise<Ended> {
  return new Promise((resolve) => {
    const child = execFile(
      file,
      args,
      { cwd: cli.folder, env: { ...environment(), ...more }, encoding: "buffer", maxBuffer: 64 * 1024 * 1024, timeout: 60_000 },
      (_error, stdout, stderr) => resolve({ code: child.exitCode, stdout, stderr: stderr.toString() }),
    );
    child.stdin?.on("error", () => undefined); // one that ends without reading it
    child.stdin?.end(input);
  });
}

const roost = (...args: string[]) => program(process.execPath, [bundle.main, ...args]);
const ssh = (args: readonly string[], input?: Buffer | string) => program("ssh", ["-F", config(), ...args], input);
const config = () => join(cli.folder, ".config/roost/ssh/config");
const host = () => `${id}.roost`;
const sha256 = (data: Uint8Array) => createHash("sha256").update(data).digest("hex");
const nothingRuns = () =>
  poll({ what: "the end of all processes", timeoutMs: 20_000, intervalMs: 20 }, async () => {
    const { stdout } = await cli.run(["ps", id, "--json"]);
    return (JSON.parse(stdout.toString()) as unknown[]).length === 0 ? true : undefined;
  });

describe("roost ssh", () => {
  test("runs a command: output and errors apart, its exit code, its input, its signal", { timeout: 60_000 }, async () => {
    const ended = await roost("ssh", id, "--", "echo out; echo err >&2; pwd; exit 7");
    expect({ ...ended, stdout: ended.stdout.toString() }).toEqual({ code: 7, stdout: `out\n${home}\n`, stderr: "err\n" });
    expect((await roost("ssh", id, "sh", "-c", "'kill -9 $$'")).code).toBe(137);
    expect((await program(process.execPath, [bundle.main, "ssh", host(), "-T"], "echo from $0; exit 3\n")).code).toBe(3);
  });

  test("what is missing is told: a sandbox, the OpenSSH client", { timeout: 60_000 }, async () => {
    const unknown = await roost("ssh", "i00000000000000000000", "true");
    expect(unknown).toMatchObject({ code: 255, stderr: expect.stringContaining("i00000000000000000000") });
    const bare = await program(process.execPath, [bundle.main, "ssh", id, "true"], "", { PATH: "/nowhere" });
    expect(bare).toMatchObject({ code: 1, stderr: expect.stringContaining("openssh-client") });
  });

  test("--config names what works, and --install has ssh know every sandbox, once", { timeout: 60_000 }, async () => {
    const printed = await roost("ssh", "--config", id);
    expect(printed.stdout.toString()).toMatch(new RegExp(`^Host ${id}.roost\n  ProxyCommand .* ssh --stdio %h\n`));
    await mkdir(join(cli.folder, ".ssh"));
    await writeFile(join(cli.folder, ".ssh/config"), "Host other\n  Port 2222\n");
    for (let times = 0; times < 2; times += 1) expect((await roost("ssh", "--config", "--install")).code).toBe(0);
    const installed = await readFile(join(cli.folder, ".ssh/config"), "utf8");
    expect(installed).toBe(`Include "${config()}"\n\nHost other\n  Port 2222\n`);
    expect((await stat(join(cli.folder, ".config/roost/ssh/host_key"))).mode & 0o777).toBe(0o600);
    expect((await program("ssh", ["-F", join(cli.folder, ".ssh/config"), host(), "echo it works"])).stdout.toString()).toBe("it works\n");
  });

  test("a server with another key than ours is refused", { timeout: 60_000 }, async () => {
    await roost("ssh", "--config", "--install");
    const known = join(cli.folder, ".config/roost/ssh/known_hosts");
    const key = (await readFile(known, "utf8")).split(" ");
    const other = Buffer.from(key[2] ?? "", "base64");
    other[other.length - 1] = (other[other.length - 1] ?? 0) ^ 1;
    await writeFile(join(cli.folder, "others"), `${key[0]} ${key[1]} ${other.toString("base64")}\n`);
    const refused = await ssh(["-o", `UserKnownHostsFile=${join(cli.folder, "others")}`, host(), "true"]);
    expect(refused).toMatchObject({ code: 255, stderr: expect.stringContaining("Host key verification failed") });
  });
});

describe("with the stock programs", () => {
  beforeEach(async () => {
    await roost("ssh", "--config", "--install");
  });

  test("20 MB go in and come out, byte for byte", { timeout: 90_000 }, async () => {
    const data = randomBytes(20_000_000);
    const ended = await ssh([host(), "cat"], data);
    expect(ended.stderr).toBe("");
    expect(sha256(ended.stdout)).toBe(sha256(data));
  });

  test("environment variables are passed on", { timeout: 60_000 }, async () => {
    const ended = await ssh(["-o", "SetEnv=GREETING=grüße", host(), 'printf %s "$GREETING"']);
    expect(ended.stdout.toString()).toBe("grüße");
  });

  test("a terminal: its size, its name, and the end of its shell", { timeout: 60_000 }, async () => {
    const ended = await ssh(["-tt", "-o", "SetEnv=TERM=vt220", host(), "test -t 0 && echo terminal; stty size; exit 4"]);
    expect(ended.stdout.toString().replaceAll("\r", "")).toMatch(/^terminal\n\d+ \d+\n/);
    expect(ended.code).toBe(4);
  });

  test("a client that goes away takes its command with it", { timeout: 60_000 }, async () => {
    const client = spawn("ssh", ["-F", config(), host(), "echo ready; exec sleep 600"], {
      cwd: cli.folder,
      env: environment(),
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(client.stdout, "data");
    client.kill("SIGKILL");
    await nothingRuns();
  });

  test("a forwarded port, several connections, each side may end first", { timeout: 60_000 }, async () => {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      let question = "";
      socket.write("welcome ");
      socket.on("data", (chunk) => (question += chunk.toString())).on("end", () => socket.end(question.toUpperCase()));
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const free = createServer().listen(0, "127.0.0.1");
    await once(free, "listening");
    const local = (free.address() as AddressInfo).port;
    await new Promise((resolve) => free.close(resolve));
    const to = `${local}:localhost:${(server.address() as AddressInfo).port}`;
    const client = spawn("ssh", ["-F", config(), "-N", "-L", to, host()], { cwd: cli.folder, env: environment(), stdio: "inherit" });
    try {
      const ask = async (question: string): Promise<string> => {
        const socket = connect({ host: "127.0.0.1", port: local, allowHalfOpen: true });
        socket.end(question);
        return (await buffer(socket)).toString();
      };
      await poll({ what: "the forwarded port", timeoutMs: 30_000 }, async () => ask("x").catch(() => undefined));
      expect(await Promise.all(["one", "two", "three"].map(ask))).toEqual(["welcome ONE", "welcome TWO", "welcome THREE"]);
    } finally {
      client.kill();
      server.close();
    }
  });

  test("scp and sftp: files there and back, folders, attributes, a part of a file", { timeout: 90_000 }, async () => {
    const data = randomBytes(5_000_000);
    await writeFile(join(cli.folder, "big.bin"), data, { mode: 0o640 });
    const options = ["-F", config(), "-q"];
    expect(await program("scp", [...options, "-p", "big.bin", `${host()}:copied.bin`])).toMatchObject({ code: 0, stderr: "" });
    expect(sha256(await readFile(join(home, "copied.bin")))).toBe(sha256(data));
    expect((await stat(join(home, "copied.bin"))).mode & 0o777).toBe(0o640);
    const batch =
      "mkdir deep\nput big.bin deep/a\nchmod 600 deep/a\nrename deep/a deep/b\nsymlink b deep/link\nls deep\nget deep/b back.bin\nrm deep/link\n";
    const sftp = await program("sftp", [...options, "-b", "-", host()], batch);
    expect(sftp).toMatchObject({ code: 0 });
    expect(sha256(await readFile(join(cli.folder, "back.bin")))).toBe(sha256(data));
    await writeFile(join(cli.folder, "back.bin"), data.subarray(0, 1_000_000));
    expect(await program("sftp", [...options, "-b", "-", host()], "reget deep/b back.bin\n")).toMatchObject({ code: 0 });
    expect(sha256(await readFile(join(cli.folder, "back.bin")))).toBe(sha256(data));
  });
});
