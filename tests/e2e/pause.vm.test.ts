import { poll, sleep } from "@roost/kit";
import { RoostError } from "@roost/sdk";
import { beforeAll, describe, expect, test } from "vitest";

import { roost } from "../support/cli.ts";
import { findVmm } from "../support/find-vmm.ts";
import { usePlatform } from "../support/platform.ts";

const platform = usePlatform();
beforeAll(async () => platform().untilMemoryImage());

/** Counts in memory, into a tmpfs file, and through an open file on the disk; answers on a port. */
const program = `
import os, socket, threading, time
log = open("/home/user/log", "a", buffering=1)
count = 0
server = socket.create_server(("127.0.0.1", 4000))
def serve():
    while True:
        peer, _ = server.accept()
        peer.sendall(f"{count} {os.getpid()}".encode()); peer.close()
threading.Thread(target=serve, daemon=True).start()
while True:
    count += 1
    open("/dev/shm/count", "w").write(str(count))
    log.write(f"{count}\\n")
    time.sleep(0.05)
`;

const ask = `import socket; s = socket.create_connection(("127.0.0.1", 4000)); print(s.recv(100).decode())`;

describe("pause and resume", () => {
  test("the same id, processes, open files, tmpfs, listeners, and a clock that is right", async () => {
    const sandbox = await platform().sandbox({ timeout_sec: 0 });
    await sandbox.files.write("/home/user/program.py", program);
    const { pid } = await sandbox.execBackground("python3", { args: ["/home/user/program.py"], tag: "counter" });
    const state = async () => {
      const { stdout, stderr } = await sandbox.exec("python3", { args: ["-c", ask] });
      const [count, inGuest] = stdout.split(" ").map(Number);
      expect(stderr).toBe("");
      return { count: count ?? Number.NaN, inGuest };
    };
    const first = await poll({ what: "the counter", timeoutMs: 30_000 }, async () => state().catch(() => undefined));
    const boot = (await sandbox.exec("cat", { args: ["/proc/sys/kernel/random/boot_id"] })).stdout;

    for (let round = 0; round < 3; round += 1) {
      const paused = await sandbox.pause();
      expect(paused).toMatchObject({ state: "paused", has_memory: true });
      expect(await findVmm(platform().folder, sandbox.id)).toBeUndefined();
      expect((await sandbox.pause()).state).toBe("paused"); // again: nothing to do
      await sleep(1_500);
      const resumed = await sandbox.resume();
      expect(resumed).toMatchObject({ id: sandbox.id, state: "running", start_path: "restore" });
      expect((await sandbox.resume()).state).toBe("running");
    }
    const after = await state();
    expect(after.inGuest).toBe(first.inGuest);
    expect(after.count).toBeGreaterThan(first.count);
    expect((await sandbox.exec("cat", { args: ["/proc/sys/kernel/random/boot_id"] })).stdout).toBe(boot);
    expect(await sandbox.processes.list()).toContainEqual(expect.objectContaining({ pid, tag: "counter" }));
    // Every line from 1 on, none twice, none missing: on the disk as in memory
    const lines = (await sandbox.files.readText("/home/user/log")).trim().split("\n").map(Number);
    expect(lines).toEqual(lines.map((_, index) => index + 1));
    expect(lines.length).toBeGreaterThanOrEqual(after.count);
    const guestMs = Number((await sandbox.exec("date", { args: ["+%s%3N"] })).stdout);
    expect(Math.abs(guestMs - Date.now())).toBeLessThan(2_000);
    await sandbox.delete();
  });

  test("without memory: the files are there, the processes are not", async () => {
    const sandbox = await platform().sandbox({ timeout_sec: 0 });
    await sandbox.files.write("/home/user/kept", "kept");
    await sandbox.execBackground("sleep", { args: ["1000"], tag: "sleeper" });
    expect(await sandbox.pause({ memory: false })).toMatchObject({ state: "paused", has_memory: false });
    expect(await sandbox.resume()).toMatchObject({ state: "running", start_path: "boot" });
    expect(await sandbox.files.readText("/home/user/kept")).toBe("kept");
    expect(await sandbox.processes.list()).toEqual([]);
    await sandbox.delete();
  });

  test("commands on a paused sandbox say how to go on; with auto_resume they do, and many at once resume it once", async () => {
    const sandbox = await platform().sandbox({ timeout_sec: 0 });
    await sandbox.pause();
    const refused = await sandbox.exec("true").catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(RoostError);
    expect(refused).toMatchObject({ code: "sandbox_wrong_state", message: expect.stringContaining("resume") as string });
    await sandbox.delete();

    const waking = await platform().sandbox({ timeout_sec: 0, auto_resume: true });
    await waking.pause();
    const answers = await Promise.all(Array.from({ length: 8 }, (_, index) => waking.exec("echo", { args: [String(index)] })));
    expect(answers.map(({ stdout }) => stdout.trim())).toEqual(["0", "1", "2", "3", "4", "5", "6", "7"]);
    const kinds: string[] = [];
    for await (const { kind } of platform().client.events.list({ sandboxId: waking.id })) kinds.push(kind);
    expect(kinds.filter((kind) => kind === "sandbox.auto_resumed")).toHaveLength(1);
    await waking.delete();
  });

  test("nobody uses it: it is paused, never ended; a running command is use", async () => {
    const sandbox = await platform().sandbox({ timeout_sec: 2 });
    await sandbox.exec("sleep", { args: ["6"] });
    expect((await sandbox.get()).state).toBe("running");
    await poll({ what: "the pause", timeoutMs: 30_000 }, async () => ((await sandbox.get()).state === "paused" ? true : undefined));
    expect(await sandbox.resume()).toMatchObject({ state: "running" });
    await sandbox.delete();
  });

  test("the CLI pauses and resumes", async () => {
    const sandbox = await platform().sandbox({ timeout_sec: 0 });
    const paused = await roost(platform(), ["pause", sandbox.id, "--json"]);
    expect(paused.exitCode, paused.stderr).toBe(0);
    expect(JSON.parse(paused.stdout.toString())).toMatchObject([{ id: sandbox.id, state: "paused" }]);
    const resumed = await roost(platform(), ["resume", sandbox.id]);
    expect(resumed.exitCode, resumed.stderr).toBe(0);
    expect((await sandbox.get()).state).toBe("running");
    await sandbox.delete();
  });
});

describe("what is not running", () => {
  test("paused sandboxes survive kill -9 of the platform, and a VMM that dies leaves a sandbox at its last generation", async () => {
    const paused = await platform().sandbox({ timeout_sec: 0 });
    await paused.files.write("/dev/shm/memory", "in memory");
    await paused.pause();
    const running = await platform().sandbox({ timeout_sec: 0 });
    await running.files.write("/dev/shm/memory", "in memory");
    const { generation } = await running.checkpoint();
    await running.files.write("/home/user/later", "on disk");
    await running.exec("sync");
    process.kill((await findVmm(platform().folder, running.id)) ?? Number.NaN, "SIGKILL");
    await platform().killHard();
    await platform().up();

    const one = platform().client.sandbox(paused.id);
    expect(await one.resume()).toMatchObject({ state: "running", start_path: "restore" });
    expect(await one.files.readText("/dev/shm/memory")).toBe("in memory");
    await one.delete();

    const other = platform().client.sandbox(running.id);
    expect(await other.get()).toMatchObject({
      state: "paused",
      current_generation: generation.number,
      notice: expect.stringContaining(`generation ${generation.number}`) as string,
    });
    // The newest disk first, then the generation: neither was lost
    await other.resume({ memory: false });
    expect(await other.files.readText("/home/user/later")).toBe("on disk");
    await other.rollback(generation.number);
    expect(await other.files.readText("/dev/shm/memory")).toBe("in memory");
    expect(await other.exec("test", { args: ["!", "-e", "/home/user/later"] })).toMatchObject({ exit_code: 0 });
    await other.delete();
  });
});
