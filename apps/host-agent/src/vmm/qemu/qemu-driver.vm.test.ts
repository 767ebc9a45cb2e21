import { spawn } from "node:child_process";
import { chmod, chown, mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { CommandError, identifyProcess, KiB, MiB, poll, run } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { expect, test } from "vitest";
import { z } from "zod";

import { createLayer } from "../../disk/layers.ts";
import { Cgroups } from "../cgroup.ts";
import { consoleFileBytesMax } from "../console.ts";
import { isRunning, vmRecordSchema, type Vm, type VmRecord, type VmSpec } from "../driver.ts";
import { createQemuHarness } from "../testing/qemu-harness.ts";
import { describeOnGuests } from "../testing/test-guest.ts";
import { useDriver } from "../testing/use-driver.ts";
import { vmLayout } from "./layout.ts";
import { QemuDriver } from "./qemu-driver.ts";
import type { QemuVm } from "./qemu-vm.ts";

const cgroups = await Cgroups.probe();
const upTimeoutMs = 60_000;

describeOnGuests("a QEMU process", (guest) => {
  const { harness, driver, start, records } = useDriver(() => createQemuHarness(guest));

  async function untilSaid(vm: Vm, words: string): Promise<void> {
    await poll({ what: `"${words}" on the console`, timeoutMs: upTimeoutMs }, async () =>
      (await vm.console(2 * consoleFileBytesMax)).includes(words) ? true : undefined,
    );
  }

  /** Adds disks: a root disk of one layer on a raw image, and an agent disk. */
  async function withDisks(spec: VmSpec, sizeMib: number, parent: string = spec.folder) {
    const base = join(harness().folder, "base, one.raw");
    const agentDisk = join(harness().folder, "agent.squashfs");
    const folder = join(parent, "disk");
    await writeFile(base, Buffer.alloc(MiB, "base"));
    await writeFile(agentDisk, Buffer.alloc(MiB, "agent"));
    for (const path of [base, agentDisk]) await chmod(path, 0o666); // careless on purpose: the VMM only gets them open for reading
    await mkdir(folder);
    await chown(folder, 0, spec.gid);
    await chmod(folder, 0o710);
    await createLayer({ path: join(folder, "top.qcow2"), sizeMib, uid: spec.uid, gid: spec.gid });
    return { spec: { ...spec, disks: { root: { base, folder, layers: ["top.qcow2"], sizeMib }, agentDisk } }, base, agentDisk };
  }

  test("has no privileges and no way to get any", async () => {
    const spec = await harness().createSpec();
    const { record } = await start(spec);
    for (const { pid } of [record.vmm, record.supervisor]) {
      const status = await readStatus(pid);
      expect(status).toMatchObject({
        Uid: Array(4).fill(String(spec.uid)).join("\t"),
        Gid: Array(4).fill(String(spec.gid)).join("\t"),
        Groups: "",
        CapInh: "0000000000000000",
        CapPrm: "0000000000000000",
        CapEff: "0000000000000000",
        CapBnd: "0000000000000000",
        CapAmb: "0000000000000000",
        NoNewPrivs: "1",
      });
      expect(await readFile(`/proc/${pid}/oom_score_adj`, "utf8")).toBe("300\n");
    }
    expect(await readStatus(record.vmm.pid)).toMatchObject({ Seccomp: "2" });
    const limits = await readFile(`/proc/${record.vmm.pid}/limits`, "utf8");
    expect(limits).toMatch(/Max core file size\s+0 /);
    expect(limits).toMatch(/Max open files\s+1024 /);
    expect(limits).toMatch(/Max processes\s+256 /);
    expect(limits).toMatch(/Max file size\s+1073741824 /);
  });

  test("sees only the files it needs, and can write only its own", async () => {
    const spec = await harness().createSpec();
    const { record } = await start(spec);
    const mounts = (await readFile(`/proc/${record.vmm.pid}/mountinfo`, "utf8")).trim().split("\n").map(parseMount);
    expect(mounts.map((mount) => mount.path).toSorted()).toEqual(
      ["/", "/usr", "/vm/kernel", "/vm/initramfs", "/vm/memory", "/vm/run"].toSorted(),
    );
    expect(mounts.filter((mount) => mount.options.includes("rw")).map((mount) => mount.path)).toEqual(["/vm/run"]);
    for (const mount of mounts) expect(mount.options, mount.path).toContain("nosuid");

    expect((await inside(record, spec, "ls -A /")).split("\n").sort()).toEqual(
      ["bin", "dev", "etc", "lib", "lib64", "old", "sbin", "usr", "vm"].toSorted(),
    );
    expect(await inside(record, spec, "ls -A /dev /old")).toBe("/dev:\nnet\nnull\n\n/old:");
    for (const path of ["/vm/kernel", "/vm/initramfs", "/vm/memory", "/usr/bin/env", "/new", "/dev/null2"]) {
      await expect(inside(record, spec, `echo x >>${path}`), path).rejects.toThrow(CommandError);
      await expect(insideAsRoot(record, `echo x >>${path}`), `${path} as root`).rejects.toThrow(/Read-only file system/);
    }
    await inside(record, spec, "echo x >/vm/run/own");
  });

  test.skipIf(cgroups.controllers.length === 0)(`is limited by its cgroup (${cgroups.controllers.join(", ")})`, async () => {
    const spec = await harness().createSpec();
    const { record } = await start(spec);
    const memberships = (await readFile(`/proc/${record.vmm.pid}/cgroup`, "utf8")).split("\n");
    const own = memberships.filter((line) => line.endsWith(`:/${spec.cgroup}`));
    expect(own.length).toBeGreaterThan(0);
    expect(await readFile(`/proc/${record.supervisor.pid}/cgroup`, "utf8")).toContain(`:/${spec.cgroup}`);
    const memoryFiles = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map((root) => [
      join(root, spec.cgroup ?? "", "memory.limit_in_bytes"),
      join(root, spec.cgroup ?? "", "memory.max"),
    ]);
    const limits = await Promise.all(memoryFiles.flat().map((path) => readFile(path, "utf8").catch(() => "")));
    expect(limits.join("")).toBe(`${(192 + 256 + 256) * 1024 * 1024}\n`);
  });

  test("its guest cannot fill the host's disk through the console, and the newest output is kept", async () => {
    const spec = await harness().createSpec("flood");
    const vm = await start(spec);
    const { console, consoleOld, runFolder } = vmLayout(spec.folder);
    const firstFull = await poll({ what: "a full console", timeoutMs: upTimeoutMs }, async () => stat(consoleOld));
    await poll({ what: "the next full console", timeoutMs: upTimeoutMs }, async () =>
      (await stat(consoleOld)).ino === firstFull.ino ? undefined : true,
    );
    for (const path of [console, consoleOld]) {
      const size = await stat(path).then(
        (status) => status.size,
        () => 0, // the one becomes the other just now
      );
      expect(size).toBeLessThanOrEqual(consoleFileBytesMax);
    }
    const exit = await vm.kill();
    expect(exit.consoleTail.at(-2)).toBe("the quick brown fox jumps over the lazy dog");
    expect((await vm.console(100 * KiB)).length).toBe(100 * KiB);
    expect((await vm.console(10_000_000)).length).toBeLessThanOrEqual(2 * consoleFileBytesMax);
    expect((await readdir(runFolder)).toSorted()).toEqual(["console", "console.old", "qmp.sock", "vmm.pid"]);
  });

  test("a kernel panic and a reboot end the VM, and the panic can be read", async () => {
    const [panicking, rebooting] = await Promise.all([
      start(await harness().createSpec("panic")),
      start(await harness().createSpec("reboot")),
    ]);
    const [panic, reboot] = await Promise.all([panicking.exited, rebooting.exited]);
    expect(panic).toMatchObject({ exitCode: 0, signal: null });
    expect(panic.consoleTail.join("\n")).toContain("Kernel panic - not syncing");
    expect(reboot).toMatchObject({ exitCode: 0, signal: null });
    expect(reboot.consoleTail.join("\n")).toContain("rebooting");
  });

  test("outlives the process that started it, which is killed, and is adopted", async () => {
    const spec = await harness().createSpec();
    const script = fileURLToPath(new URL("../testing/start-vm-child.ts", import.meta.url));
    const args = ["--import", "tsx", "--conditions", "@roost/source", script, harness().memoryFolder, JSON.stringify(spec)];
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    let printed = "";
    child.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
    await poll({ what: "the record of the VM", timeoutMs: upTimeoutMs }, () => (printed.endsWith("\n") ? true : undefined));
    const record = vmRecordSchema.parse(JSON.parse(printed));
    records.push(record);
    const dead = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await dead;

    const adopted = await driver().adopt(record);
    if (!isRunning(adopted)) throw new Error(`did not outlive its starter: ${JSON.stringify(adopted)}`);
    await untilSaid(adopted, "guest is up");
    expect(await adopted.kill()).toMatchObject({ signal: "SIGKILL" });
  });

  test("an exit that nobody wrote down is an unknown one, not a wrong one", async () => {
    const vm = await start(await harness().createSpec());
    await untilSaid(vm, "guest is up");
    process.kill(vm.record.supervisor.pid, "SIGKILL");
    expect(await Promise.race([vm.exited, Promise.resolve("running")])).toBe("running");
    process.kill(vm.record.vmm.pid, "SIGKILL");
    expect(await vm.exited).toMatchObject({ exitCode: null, signal: null });
  });

  test("a VM from before the host's last restart is gone, whoever has its pids now", async () => {
    const record: VmRecord = {
      ...(await start(await harness().createSpec())).record,
      bootId: "00000000-0000-0000-0000-000000000000",
      vmm: { pid: process.pid, startTicks: (await identifyProcess(process.pid))?.startTicks ?? "" },
    };
    expect(await driver().adopt(record)).toMatchObject({ exitCode: null, signal: null });
    await driver().destroy({ ...record, cgroup: null });
    expect(await identifyProcess(process.pid)).toBeDefined();
  });

  test("a start that is aborted at any moment leaves nothing", async () => {
    const random = new SeededRandom();
    await driver().version();
    for (let round = 0; round < 12; round += 1) {
      const spec = await harness().createSpec();
      const abort = new AbortController();
      const delayMs = random.integer(120);
      setTimeout(() => abort.abort(new Error("changed our mind")), delayMs);
      const outcome = await driver()
        .start(spec, abort.signal)
        .catch((error: unknown) => error);
      const context = `SEED=${random.seed}, round ${round}, aborted after ${delayMs} ms`;
      if (outcome instanceof Error) {
        expect(outcome.message, context).toBe("changed our mind");
        expect(await readdir(spec.folder), context).toEqual([]);
        expect(await harness().leftovers(), context).toEqual([]);
      } else {
        await (outcome as Vm).kill(); // it was faster than the abort
      }
    }
  });

  test("a state folder may have a path longer than a socket's may be, with any characters", async () => {
    const spec = await harness().createSpec();
    const folder = join(spec.folder, `it's a "folder" with $(a), ${"long-".repeat(20)}name`);
    await run(["/usr/bin/mkdir", folder]);
    const vm = await start({ ...spec, folder });
    await untilSaid(vm, "guest is up");
    expect(await vm.kill()).toMatchObject({ signal: "SIGKILL" });
  });

  test("disks: the top layer is the VM's, what it stands on nobody's", async () => {
    const { spec, base, agentDisk } = await withDisks(await harness().createSpec(), 64);
    const vm = await start(spec);
    const { record } = vm;

    const blocks = z
      .array(z.object({ inserted: z.object({ "node-name": z.string(), ro: z.boolean() }) }))
      .parse(await (vm as QemuVm).qmp.execute("query-block"));
    expect(blocks.map(({ inserted }) => [inserted["node-name"], inserted.ro])).toEqual([
      ["l-top", false],
      ["agent", true],
    ]);
    expect(await vm.layers()).toEqual(["top.qcow2"]);
    const mounts = (await readFile(`/proc/${record.vmm.pid}/mountinfo`, "utf8")).trim().split("\n").map(parseMount);
    const writable = mounts.filter((mount) => mount.options.includes("rw"));
    expect(writable.map((mount) => mount.path).toSorted()).toEqual(["/vm/disk", "/vm/run"]);
    for (const { options } of writable) expect(options).toEqual(expect.arrayContaining(["nosuid", "nodev", "noexec"]));
    expect(await inside(record, spec, "ls /vm")).toBe("disk\ninitramfs\nkernel\nmemory\nrun");
    expect(await readFile(`/proc/${record.vmm.pid}/limits`, "utf8")).toMatch(new RegExp(`Max file size\\s+${(64 + 1024) * MiB} `));
    await untilSaid(vm, "guest is up");
    expect(await vm.kill()).toMatchObject({ signal: "SIGKILL" });
    expect((await readFile(base)).equals(Buffer.alloc(MiB, "base"))).toBe(true);
    expect((await readFile(agentDisk)).equals(Buffer.alloc(MiB, "agent"))).toBe(true);
  });

  test("boots on the machine for hosts whose TSC is not known", async () => {
    const vm = await new QemuDriver({ memoryFolder: harness().memoryFolder, tscKhz: null }).start(await harness().createSpec());
    records.push(vm.record);
    await untilSaid(vm, "guest is up");
    expect(await readFile(`/proc/${vm.record.vmm.pid}/cmdline`, "utf8")).toContain("q35");
    await vm.kill();
  });

  test("a guest that writes to all its disks changes its top layer alone", async () => {
    const { spec, base, agentDisk } = await withDisks(await harness().createSpec("write-disks"), 8);
    const vm = await start(spec);
    expect(await vm.exited).toMatchObject({ exitCode: 0, signal: null });
    const said = (await vm.consoleTail(40)).join("\n");
    expect(said).toContain("vda: 16384 sectors, read-only 0, written");
    expect(said).toContain("vdb: 2048 sectors, read-only 1, refused");

    expect((await readFile(base)).equals(Buffer.alloc(MiB, "base"))).toBe(true);
    expect((await readFile(agentDisk)).equals(Buffer.alloc(MiB, "agent"))).toBe(true);
    const copy = join(harness().folder, "copy.raw");
    await run(["/usr/bin/qemu-img", "convert", "-f", "qcow2", "-O", "raw", join(spec.disks?.root.folder ?? "", "top.qcow2"), copy]);
    expect((await readFile(copy)).subarray(0, 9).toString()).toBe("roost was");
  });

  test("a guest whose disk cannot grow waits, and goes on by itself when the host has room again", async () => {
    const plain = await harness().createSpec("fill-disk");
    const full = join(harness().folder, "full");
    await mkdir(full);
    await run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0755", "tmpfs", full]);
    try {
      const { spec } = await withDisks(plain, 8, full);
      const vm = await start(spec);
      await poll({ what: "the guest's stop", timeoutMs: upTimeoutMs }, async () => ((await vm.isStopped()) ? true : undefined));
      expect(await (vm as QemuVm).qmp.execute("query-status")).toMatchObject({ status: "io-error" });
      vm.release();
      await run(["mount", "-o", "remount,size=32m", full]);
      const adopted = await driver().adopt(vm.record);
      if (!isRunning(adopted)) throw new Error("it ended");
      await untilSaid(adopted, "filled the disk");
      await adopted.kill();
    } finally {
      await run(["umount", "-l", full]);
    }
  });

  test("a tap of its own in another network namespace is its only network", async () => {
    const plain = await harness().createSpec();
    const namespace = `roost-test-${process.pid}`;
    await run(["/usr/sbin/ip", "netns", "add", namespace]);
    try {
      await run(["/usr/sbin/ip", "-n", namespace, "tuntap", "add", "dev", "tap0", "mode", "tap", "user", String(plain.uid)]);
      const network = { namespacePath: `/run/netns/${namespace}`, tapName: "tap0", macAddress: "02:00:00:00:00:01" };
      const vm = await start({ ...plain, network });
      expect(await run(["/usr/sbin/ip", "netns", "identify", String(vm.record.vmm.pid)])).toBe(`${namespace}\n`);
      expect(await run(["/usr/sbin/ip", "netns", "identify", String(vm.record.supervisor.pid)])).toBe(`${namespace}\n`);
      await run(["/usr/sbin/ip", "-n", namespace, "link", "set", "tap0", "up"]);
      expect(await run(["/usr/sbin/ip", "-n", namespace, "link", "show", "tap0"])).toContain("LOWER_UP"); // somebody holds its other end
      await vm.kill();
      // Somebody else's tap is refused: the VMM may not make or take one.
      const other = await harness().createSpec();
      await expect(driver().start({ ...other, network })).rejects.toMatchObject({ code: "sandbox_start_failed" });
      await expect(driver().start({ ...plain, network: { ...network, tapName: "tap1" } })).rejects.toMatchObject({
        code: "sandbox_start_failed",
      });
    } finally {
      await run(["/usr/sbin/ip", "netns", "delete", namespace]);
    }
  });

  test("guest memory is private: the file behind it stays zeros, and is on no disk", async () => {
    const vm = await start(await harness().createSpec());
    await untilSaid(vm, "guest is up");
    const path = join(harness().memoryFolder, "zero-192mib.memory");
    const status = await stat(path);
    expect([status.size, status.blocks, status.mode & 0o777, status.uid]).toEqual([192 * 1024 * KiB, 0, 0o444, 0]);
    const maps = (await readFile(`/proc/${vm.record.vmm.pid}/maps`, "utf8")).split("\n").filter((line) => line.endsWith(" /vm/memory"));
    expect(maps.map((line) => line.split(" ")[1])).toEqual(["rw-p"]);
  });
});

async function readStatus(pid: number): Promise<Record<string, string>> {
  const lines = (await readFile(`/proc/${pid}/status`, "utf8")).trimEnd().split("\n");
  return Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]));
}

function parseMount(line: string): { readonly path: string; readonly options: readonly string[] } {
  const fields = line.split(" ");
  return { path: fields[4] ?? "", options: fields[5]?.split(",") ?? [] };
}

/** Runs a script where the VMM is and as whom it runs. */
async function inside(record: VmRecord, spec: VmSpec, script: string): Promise<string> {
  return enter(record, ["/usr/bin/setpriv", `--reuid=${spec.uid}`, `--regid=${spec.gid}`, "--clear-groups", "--"], script);
}

async function insideAsRoot(record: VmRecord, script: string): Promise<string> {
  return enter(record, [], script);
}

async function enter(record: VmRecord, prefix: readonly string[], script: string): Promise<string> {
  const target = [`--target=${record.vmm.pid}`, "--mount", "--root", "--wd=/", "--"];
  return (await run(["/usr/bin/nsenter", ...target, ...prefix, "/usr/bin/sh", "-c", script])).trim();
}
