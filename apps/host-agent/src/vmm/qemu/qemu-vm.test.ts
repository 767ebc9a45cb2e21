import { spawn, type ChildProcess } from "node:child_process";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { identifyProcess, isAlive, must, poll } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { Cgroups } from "../cgroup.ts";
import { readFileTail } from "../console.ts";
import type { VmRecord } from "../driver.ts";
import { vmLayout } from "./layout.ts";
import { QemuVm } from "./qemu-vm.ts";
import { QmpClient } from "./qmp.ts";

// A VMM that is not QEMU: a shell that waits for a `sleep` as the supervisor does for its child, and a control socket
// that says what a test wants.

const greeting = '{"QMP": {"version": {}, "capabilities": []}}\r\n';

let folder: string;
let supervisor: ChildProcess;
let record: VmRecord;
let server: Server;
let sockets: Socket[];
let answer: (command: { execute: string; id: number }, socket: Socket) => void;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-vm-"));
  const layout = vmLayout(folder);
  await mkdir(layout.runFolder);
  const script = 'cd "$0"; sleep 1000 & echo $! >vmm.pid; wait $!; echo $? >exit';
  supervisor = spawn("/bin/sh", ["-c", script, layout.runFolder], { detached: true, stdio: "ignore" });
  const pid = await poll({ what: "the pid", timeoutMs: 30_000 }, async () => {
    const text = (await readFileTail(layout.pidFile, 16)).toString();
    return text.endsWith("\n") ? Number(text) : undefined;
  });
  record = {
    formatVersion: 1,
    driver: "qemu",
    vmmVersion: "QEMU 0",
    accelerator: "tcg",
    sandboxId: "itest",
    folder,
    bootId: "",
    vmm: must(await identifyProcess(pid), "the sleep"),
    vmmName: "roost-itest",
    supervisor: must(await identifyProcess(must(supervisor.pid, "pid")), "the shell"),
    cgroup: null,
    timeStartedMs: 0,
  };
  sockets = [];
  answer = (command, socket) => socket.write(`{"return": {"name": "roost-itest"}, "id": ${command.id}}\n`);
  server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => undefined); // the client under test hangs up on us
    socket.write(greeting);
    socket.on("data", (chunk: Buffer) => {
      for (const line of chunk.toString().trim().split("\n")) answer(JSON.parse(line) as { execute: string; id: number }, socket);
    });
  });
  await new Promise<void>((resolve) => server.listen(layout.qmpSocket, resolve));
});

afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await new Promise<void>((resolve) => server.close(() => resolve()));
  if (await isAlive(record.vmm)) process.kill(record.vmm.pid, "SIGKILL");
  await poll({ what: "the end of the supervisor", timeoutMs: 30_000 }, () =>
    (supervisor.exitCode ?? supervisor.signalCode) === null ? undefined : true,
  );
  await rm(folder, { recursive: true, force: true });
});

async function createVm(): Promise<QemuVm> {
  const qmp = await QmpClient.connect(vmLayout(folder).qmpSocket);
  return new QemuVm({ record, qmp, cgroups: new Cgroups([]) });
}

test("a VMM that sends garbage is ended: something else speaks for it", async () => {
  const vm = await createVm();
  sockets[0]?.write("\u0000\u0001 this is not QMP\n");
  expect(await vm.exited).toMatchObject({ exitCode: null, signal: "SIGKILL" });
  expect(await isAlive(record.vmm)).toBe(false);
});

test("a control connection that breaks is made again, and the VM is left in peace", async () => {
  const vm = await createVm();
  sockets[0]?.destroy();
  await poll({ what: "the next connection", timeoutMs: 30_000 }, () => (sockets.length === 2 ? true : undefined));
  await poll({ what: "an answer on it", timeoutMs: 30_000 }, async () =>
    (await vm.qmp.execute("query-status")) === undefined ? undefined : true,
  );
  expect(await isAlive(record.vmm)).toBe(true);
  expect(await vm.kill()).toMatchObject({ signal: "SIGKILL" });
});

test("a control socket that was exchanged for another VM's is not spoken to: the VM is ended", async () => {
  const vm = await createVm();
  const asked: string[] = [];
  answer = (command, socket) => {
    asked.push(command.execute);
    socket.write(`{"return": {"name": "roost-other"}, "id": ${command.id}}\n`);
  };
  sockets[0]?.destroy();
  expect(await vm.exited).toMatchObject({ signal: "SIGKILL" });
  expect(asked).toEqual(["qmp_capabilities", "query-name"]);
});

test("the end of the process is the end of the VM, even when its socket is kept open by another", async () => {
  const vm = await createVm();
  process.kill(record.vmm.pid, "SIGTERM");
  await poll({ what: "the end of the process", timeoutMs: 30_000 }, async () => ((await isAlive(record.vmm)) ? undefined : true));
  sockets[0]?.destroy();
  expect(await vm.exited).toMatchObject({ exitCode: null, signal: "SIGTERM" });
});

test("a VMM that ignores both the power button and quit is killed", async () => {
  const asked: string[] = [];
  answer = (command, socket) => {
    asked.push(command.execute);
    socket.write(`{"return": {}, "id": ${command.id}}\n`);
    if (command.execute === "quit") setImmediate(() => socket.write("}{ nonsense\n"));
  };
  const vm = await createVm();
  expect(await vm.shutdown({ graceMs: 10 })).toMatchObject({ signal: "SIGKILL" });
  expect(asked).toEqual(["qmp_capabilities", "system_powerdown", "quit"]);
});

test("one who released the VM neither ends it nor hears of its end", async () => {
  const vm = await createVm();
  vm.release();
  await poll({ what: "the end of the connection", timeoutMs: 30_000 }, () => (sockets[0]?.destroyed === true ? true : undefined));
  expect(await isAlive(record.vmm)).toBe(true);
  expect(sockets.length).toBe(1);
});
