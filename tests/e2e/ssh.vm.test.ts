import { spawn, type ChildProcess } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { connect, createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { buffer, text } from "node:stream/consumers";

import { poll, run } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import { usePlatform, useSandbox } from "../support/platform.ts";
import { roostProgram } from "../support/test-platform.ts";

/** The stock programs, as people use them, into a real guest: its template has no SSH of its own. */

const platform = usePlatform();
const sandbox = useSandbox(platform, { auto_resume: true });
const background: ChildProcess[] = [];

let folder: string;
beforeAll(async () => {
  folder = join(platform().folder, "user");
  await mkdir(folder);
  await expectFine(start(roostProgram, ["ssh", "--config", "--install"]));
});
afterAll(() => {
  for (const child of background) child.kill("SIGKILL");
});

const environment = () => ({ ...platform().environment, HOME: folder, XDG_CONFIG_HOME: join(folder, ".config") });
const host = () => `${sandbox().id}.roost`;
const configured = () => ["-F", join(folder, ".ssh/config")];
const sha256 = (data: Uint8Array) => createHash("sha256").update(data).digest("hex");
const inGuest = async (script: string) => (await sandbox().exec("sh", { args: ["-c", script] })).stdout;

function start(program: string, args: readonly string[]): ChildProcess & { stdin: NonNullable<ChildProcess["stdin"]> } {
  const child = spawn(program, args, { cwd: folder, env: environment(), stdio: "pipe", timeout: 90_000 });
  child.stdin.on("error", () => undefined); // one that ends without reading it
  return child;
}

async function end(child: ChildProcess, input: Buffer | string = "") {
  child.stdin?.end(input);
  const { stdout, stderr } = child;
  if (stdout === null || stderr === null) throw new Error("it has no output");
  const [output, errors, [code]] = await Promise.all([buffer(stdout), text(stderr), once(child, "close") as Promise<[number | null]>]);
  return { code, output, errors };
}

async function expectFine(child: ChildProcess, input?: Buffer | string): Promise<Buffer> {
  const { code, output, errors } = await end(child, input);
  expect({ code, errors }).toEqual({ code: 0, errors: "" });
  return output;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

test("a command: output and errors apart, exit code, users, a script on standard input as editors send it", async () => {
  expect(await end(start(roostProgram, ["ssh", sandbox().id, "--", "id -un; pwd; echo err >&2; exit 7"]))).toEqual({
    code: 7,
    output: Buffer.from("user\n/home/user\n"),
    errors: "err\n",
  });
  expect(String(await expectFine(start("ssh", [...configured(), `root@${host()}`, "id -un"])))).toBe("root\n");
  const script = 'uname -s\nfor i in 1 2 3; do printf "%s " $i; done\nexit 9\n';
  const scripted = await end(start("ssh", [...configured(), "-T", host(), "bash"]), script);
  expect([scripted.code, String(scripted.output)]).toEqual([9, "Linux\n1 2 3 "]);
});

test("8 MB go through a command and come back byte for byte", async () => {
  const data = randomBytes(8_000_000);
  expect(sha256(await expectFine(start("ssh", [...configured(), host(), "cat"]), data))).toBe(sha256(data));
});

test("scp and sftp, with the SFTP server of the agent disk", async () => {
  expect(await inGuest("ls /usr/lib/openssh/sftp-server 2>/dev/null || echo none")).toBe("none\n");
  const data = randomBytes(2_000_000);
  await writeFile(join(folder, "big.bin"), data, { mode: 0o640 });
  await expectFine(start("scp", [...configured(), "-q", "-p", "big.bin", `${host()}:deep.bin`]));
  expect(await inGuest("sha256sum deep.bin; stat -c '%a %U' deep.bin")).toBe(`${sha256(data)}  deep.bin\n640 user\n`);
  const batch = "mkdir folder\nrename deep.bin folder/a\nchmod 600 folder/a\nsymlink a folder/link\nget folder/link back.bin\n";
  await expectFine(start("sftp", [...configured(), "-q", "-b", "-", host()]), batch);
  expect(sha256(await readFile(join(folder, "back.bin")))).toBe(sha256(data));
  expect(await inGuest("stat -c '%a %F' folder/a folder/link")).toBe("600 regular file\n777 symbolic link\n");
  const root = await end(start("sftp", [...configured(), "-q", "-b", "-", host()]), "put big.bin /etc/not-mine\n");
  expect([root.code, root.errors]).toEqual([1, expect.stringContaining("Permission denied")]);
});

test("rsync, when the sandbox has it: only what changed", async () => {
  const libraries = (await run(["ldd", "/usr/bin/rsync"])).match(/\/\S+\.so[.\d]*/g) ?? [];
  for (const path of ["/usr/bin/rsync", ...libraries.filter((path) => !/\/(ld-linux|libc)[.-]/.test(path))]) {
    await sandbox().files.write(`rs/${path.split("/").at(-1)}`, await readFile(path));
  }
  await inGuest("chmod 755 rs/rsync");
  const tree = join(folder, "tree");
  await mkdir(tree);
  for (const name of ["a", "b", "c"]) await writeFile(join(tree, name), randomBytes(10_000));
  const sync = () => {
    const shell = `ssh ${configured().join(" ")}`;
    const server = "env LD_LIBRARY_PATH=/home/user/rs /home/user/rs/rsync";
    return expectFine(start("rsync", ["-a", "--out-format=%n", "-e", shell, `--rsync-path=${server}`, "tree", `${host()}:`]));
  };
  expect(String(await sync())).toBe("tree/\ntree/a\ntree/b\ntree/c\n");
  await writeFile(join(tree, "b"), "changed");
  expect(String(await sync())).toBe("tree/b\n");
  expect(await inGuest("cat tree/b; stat -c %s tree/c")).toBe("changed10000\n");
});

test("ports: ssh -L and -D, and roost port --forward, to a server on the guest's loopback address", { timeout: 120_000 }, async () => {
  await inGuest("mkdir -p web && echo from the guest > web/index.html");
  await sandbox().execBackground("python3", {
    args: ["-m", "http.server", "--bind", "127.0.0.1", "--directory", "web", "8123"],
    tag: "web",
  });
  const [local, socks] = [await freePort(), await freePort()];
  const client = start("ssh", [...configured(), "-N", "-L", `${local}:localhost:8123`, "-D", `127.0.0.1:${socks}`, host()]);
  background.push(client);
  const url = `http://127.0.0.1:${local}/`;
  const answer = async (address: string) => (await fetch(address)).text().catch(() => undefined);
  const served = async (address: string) =>
    poll({ what: `an answer of ${address}`, timeoutMs: 60_000, intervalMs: 200 }, async () => answer(address).catch(() => undefined));
  expect(await served(url)).toBe("from the guest\n");
  // SOCKS 5 by hand: no authentication, connect to localhost:8123 by name
  const socket = connect(socks, "127.0.0.1");
  socket.write(Buffer.from([5, 1, 0]));
  await once(socket, "data");
  socket.write(Buffer.concat([Buffer.from([5, 1, 0, 3, 9]), Buffer.from("localhost"), Buffer.from([0x1f, 0xbb])]));
  expect(((await once(socket, "data")) as [Buffer])[0].subarray(0, 2)).toEqual(Buffer.from([5, 0]));
  socket.end("GET / HTTP/1.0\r\n\r\n");
  expect(await text(socket)).toContain("from the guest");
  client.kill();

  const forwarding = start(roostProgram, ["port", sandbox().id, "8123", "--forward", "--json"]);
  background.push(forwarding);
  const [line] = (await once(forwarding.stdout as NodeJS.ReadableStream, "data")) as [Buffer];
  const { local_port: port } = JSON.parse(line.toString()) as { local_port: number };
  expect(await served(`http://127.0.0.1:${port}/`)).toBe("from the guest\n");
  forwarding.kill("SIGINT");
  const ended = await end(forwarding);
  expect([ended.code, JSON.parse(String(ended.output))]).toEqual([0, { type: "end", connections: expect.any(Number) }]);
});

test("a paused sandbox wakes up for ssh", { timeout: 120_000 }, async () => {
  await inGuest("echo kept > /dev/shm/kept");
  await sandbox().pause();
  expect(String(await expectFine(start("ssh", [...configured(), host(), "cat /dev/shm/kept"])))).toBe("kept\n");
});

test("git clones from a sandbox and pushes to it", async () => {
  await inGuest("git init -q --bare repository.git");
  const git = async (...args: string[]) =>
    end(
      start("git", ["-c", `core.sshCommand=ssh ${configured().join(" ")}`, "-c", "user.name=n", "-c", "user.email=n@localhost", ...args]),
    );
  const codes = [
    (await git("clone", "-q", `${host()}:repository.git`)).code,
    (await git("-C", "repository", "commit", "-q", "--allow-empty", "-m", "a commit")).code,
    (await git("-C", "repository", "push", "-q", "origin", "HEAD:main")).code,
  ];
  expect(codes).toEqual([0, 0, 0]);
  expect(await inGuest("git -C repository.git log --format=%s main")).toBe("a commit\n");
});
