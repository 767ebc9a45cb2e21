import { createHash } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { processListSchema, ptyServerSchema } from "@roost/contract";
import { poll } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { startRealGuest, whyNoRealGuest, type RealGuest } from "./testing/real-guest.ts";
import { World, type TestSocket } from "./testing/world.ts";

/** The API against the real guest agent, which runs as a process of this machine instead of in a VM. */

const why = whyNoRealGuest();

describe.skipIf(why !== undefined)(`with the real guest agent${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  let guest: RealGuest;
  let world: World;
  let id: string;
  let folder: string;
  beforeAll(async () => {
    guest = await startRealGuest();
    world = await World.start({ guestPort: guest.port });
    ({ id } = await world.createSandbox());
    folder = await mkdtemp(join(tmpdir(), "roost-real-guest-files-"));
  }, 60_000);
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
    await guest[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  const exec = (cmd: string, args: string[] = [], more: object = {}) => world.exec(id, { cmd, args, user: "root", ...more });
  const sh = (script: string, more: object = {}) => exec("sh", ["-c", script], more);
  const errorOf = (answer: { body: unknown }) => (answer.body as { error: { code: string; message: string } }).error;
  const open = (path: string): Promise<TestSocket> => world.socket(`/v1/sandboxes/${id}/${path}`).open();
  const list = async () => processListSchema.parse(await (await world.request("GET", `/v1/sandboxes/${id}/processes`)).json()).processes;
  const nothingRuns = () =>
    poll({ what: "the end of all processes", timeoutMs: 30_000 }, async () => ((await list()).length === 0 ? true : undefined));

  test("commands: output, exit code, signal, environment, folder, user, input", async () => {
    expect((await sh("echo out; echo err >&2; exit 7")).body).toMatchObject({ stdout: "out\n", stderr: "err\n", exit_code: 7 });
    expect((await sh("kill -9 $$")).body).toMatchObject({ exit_code: 137 });
    expect((await sh('echo "$X"; pwd', { envs: { X: "ü" }, cwd: "/tmp" })).body).toMatchObject({ stdout: "ü\n/tmp\n" });
    expect((await exec("id", ["-un"], { user: "daemon" })).body).toMatchObject({ stdout: "daemon\n" });
    const text = "0123456789\n".repeat(60_000);
    expect((await exec("cat", [], { stdin: text })).body.stdout === text).toBe(true);
    expect((await exec("cat")).body).toMatchObject({ stdout: "" });
  });

  test("what cannot be started is told: program, folder, user", async () => {
    expect(errorOf(await exec("no-such-program"))).toMatchObject({
      code: "request_invalid",
      message: expect.stringContaining("no-such-program"),
    });
    expect(errorOf(await exec("true", [], { cwd: "/no/such/folder" }))).toMatchObject({
      message: expect.stringContaining("/no/such/folder"),
    });
    expect(errorOf(await exec("true", [], { user: "nosuchuser" }))).toMatchObject({ code: "user_unknown" });
  });

  test("deadlines and limits kill the whole group", { timeout: 30_000 }, async () => {
    expect(errorOf(await sh("sleep 60 & sleep 60", { timeout_sec: 1 })).code).toBe("exec_timeout");
    expect(errorOf(await sh("yes")).code).toBe("output_too_large");
    await nothingRuns();
  });

  test("100 MB of output arrive whole and in order", { timeout: 120_000 }, async () => {
    const socket = await open("exec/stream");
    const hash = createHash("sha256");
    let bytes = 0;
    socket.raw.on("message", (data: Buffer) => {
      const message = JSON.parse(data.toString()) as { type: string; data: string };
      if (message.type !== "stdout") return;
      const piece = Buffer.from(message.data, "base64");
      bytes += piece.length;
      hash.update(piece);
      socket.messages.length = 0; // not kept
    });
    socket.send({ type: "start", cmd: "seq", args: ["1", "12700000"], encoding: "base64", user: "root" });
    await socket.until("exit", 100_000);
    const expected = await sh("seq 1 12700000 | sha256sum", { timeout_sec: 60 });
    expect(bytes).toBeGreaterThan(100_000_000);
    expect(expected.body.stdout).toContain(hash.digest("hex"));
  });

  test("a terminal: echo, size, resize, coming back, exit", { timeout: 30_000 }, async () => {
    const type = (socket: TestSocket, text: string) => socket.send({ type: "input", data: Buffer.from(text).toString("base64") });
    const shown = (socket: TestSocket) =>
      Buffer.concat(
        socket.messages.filter((message) => message.type === "output").map((message) => Buffer.from(String(message["data"]), "base64")),
      ).toString();
    const first = await open("pty");
    first.send({ type: "start", cmd: "/bin/sh", cols: 91, rows: 17, user: "root", tag: "term" });
    expect(await first.until("started")).toMatchObject({ tag: "term" });
    type(first, "stty size; echo mark-$((40+2))\n");
    await expect.poll(() => shown(first), { timeout: 10_000 }).toContain("mark-42");
    expect(shown(first)).toContain("17 91");
    first.send({ type: "resize", cols: 120, rows: 40 });
    type(first, "stty size\n");
    await expect.poll(() => shown(first), { timeout: 10_000 }).toContain("40 120");
    first.raw.close();
    await first.ended;
    expect(await list()).toMatchObject([{ tag: "term" }]);
    const second = await open("pty");
    second.send({ type: "connect", tag: "term" });
    expect(await second.until("started")).toMatchObject({ tag: "term" });
    type(second, "echo back-$((1+1)); exit 3\n");
    expect(await second.until("exit")).toMatchObject({ exit_code: 3 });
    expect(shown(second)).toContain("back-2");
    for (const message of [...first.messages, ...second.messages]) ptyServerSchema.parse(message);
    const third = await open("pty");
    third.send({ type: "connect", tag: "term" }); // the guest tells late comers of the end for a while
    expect(await third.until("exit")).toMatchObject({ exit_code: 3 });
    const fourth = await open("pty");
    fourth.send({ type: "connect", tag: "never there" });
    expect(await fourth.until("error")).toMatchObject({ code: "process_not_found", fatal: true });
  });

  test("a terminal can be killed", async () => {
    const socket = await open("pty");
    socket.send({ type: "start", cmd: "/bin/sh", args: ["-c", 'trap "" TERM HUP INT; while :; do sleep 1; done'], user: "root" });
    await socket.until("started");
    socket.send({ type: "kill" });
    expect(await socket.until("exit")).toMatchObject({ exit_code: 137 });
  });

  test("megabytes of input over a socket, stopped by a reader that does not read", { timeout: 60_000 }, async () => {
    const socket = await open("exec/stream");
    socket.send({ type: "start", cmd: "sh", args: ["-c", "sleep 1; sha256sum"], stdin: true, encoding: "base64", user: "root" });
    await socket.until("start");
    const piece = Buffer.from(new SeededRandom(5).bytes(128 * 1024));
    const hash = createHash("sha256");
    for (let index = 0; index < 200; index += 1) {
      hash.update(piece);
      socket.send({ type: "stdin", data: piece.toString("base64") });
    }
    socket.send({ type: "stdin_close" });
    await socket.until("exit", 45_000);
    expect(Buffer.from(socket.text("stdout"), "base64").toString()).toContain(hash.digest("hex"));
  });

  test("files: 50 MB up and down byte-exact, ranges, folders, watch", { timeout: 60_000 }, async () => {
    const files = `/v1/sandboxes/${id}/files`;
    const at = (name: string) => `${files}?user=root&path=${encodeURIComponent(join(folder, name))}`;
    const data = Buffer.alloc(50_000_000, Buffer.from(new SeededRandom(11).bytes(1_000_003)));
    const written = await world.request("PUT", at("dir/big ü"), data);
    expect([written.status, await written.json()]).toMatchObject([200, { entry: { name: "big ü", size: data.length, type: "file" } }]);
    const read = await world.request("GET", at("dir/big ü"));
    expect(Buffer.from(await read.arrayBuffer()).equals(data)).toBe(true);
    const part = await world.request("GET", at("dir/big ü"), undefined, { range: "bytes=1000000-1000009" });
    expect([part.status, Buffer.from(await part.arrayBuffer())]).toEqual([206, data.subarray(1_000_000, 1_000_010)]);
    const beyond = await world.request("GET", at("dir/big ü"), undefined, { range: "bytes=99999999-" });
    expect([beyond.status, ((await beyond.json()) as { error: { code: string } }).error.code]).toEqual([416, "range_not_satisfiable"]);
    const head = await world.request("HEAD", at("dir/big ü"));
    expect([head.status, head.headers.get("content-length")]).toEqual([200, String(data.length)]);
    const ask = async (what: string, body: object) => world.request("POST", `${files}/${what}`, { user: "root", ...body });
    const listed = await ask("list", { path: folder, depth: 2 });
    expect(((await listed.json()) as { entries: { path: string }[] }).entries.map((entry) => entry.path.slice(folder.length))).toEqual([
      "/dir",
      "/dir/big ü",
    ]);
    const codes = async (answer: Response) => [answer.status, ((await answer.json()) as { error: { code: string } }).error.code];
    expect(await codes(await ask("stat", { path: join(folder, "none") }))).toEqual([404, "file_not_found"]);
    expect(await codes(await ask("list", { path: join(folder, "dir/big ü") }))).toEqual([400, "path_invalid"]);
    expect(await codes(await ask("mkdir", { path: join(folder, "dir") }))).toEqual([409, "file_exists"]);
    expect(await codes(await world.request("GET", at("dir")))).toEqual([400, "path_invalid"]);
    expect(await codes(await world.request("GET", `${files}?user=nosuchuser&path=/etc/hostname`))).toEqual([400, "user_unknown"]);

    const watch = await open(`files/watch?user=root&path=${encodeURIComponent(folder)}`);
    await watch.until("start");
    await world.request("PUT", at("seen"), "x");
    await expect
      .poll(() => watch.messages.filter((message) => message.type === "event").map((message) => message["name"]))
      .toContain("seen");
    expect((await ask("remove", { path: folder })).status).toBe(204);
  });

  test("attach: output from now on, end told, also shortly after it", { timeout: 30_000 }, async () => {
    const started = await sh("while :; do echo tick; sleep 0.05; done", { background: true, tag: "ticker" });
    expect(started.status).toBe(202);
    const socket = await open("processes/ticker/stream");
    await socket.until("stdout");
    const { pid } = started.body as unknown as { pid: number };
    expect((await world.request("DELETE", `/v1/sandboxes/${id}/processes/${pid}`)).status).toBe(204);
    expect(await socket.until("exit")).toMatchObject({ exit_code: 137 });
    await nothingRuns();
  });
});
