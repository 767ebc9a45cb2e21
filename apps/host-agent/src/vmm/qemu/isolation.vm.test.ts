import { createHash } from "node:crypto";
import { chmod, lstat, open, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { CommandError, isAlive, MiB, must, poll, run } from "@roost/kit";
import { expect, test } from "vitest";

import { pageBytes, type Vm, type VmRecord, type VmSpec } from "../driver.ts";
import { createQemuHarness } from "../testing/qemu-harness.ts";
import { describeOnGuests } from "../testing/test-guest.ts";
import { useDriver } from "../testing/use-driver.ts";
import type { QemuVm } from "./qemu-vm.ts";

// What VMs share is worth as much as the worst of them leaves of it: base files of memory, frozen layers, base images, the agent disk.

const upTimeoutMs = 60_000;

describeOnGuests("what VMs share", (guest) => {
  const { harness, start } = useDriver(() => createQemuHarness(guest));

  async function untilSaid(vm: Vm, words: RegExp): Promise<string> {
    return poll({ what: `${words} on the console`, timeoutMs: upTimeoutMs }, async () => {
      if (!(await isAlive(vm.record.vmm))) return "the VMM ended";
      return words.exec((await vm.console(MiB)).toString("latin1"))?.[0];
    });
  }

  /** A template: a base file made of a guest's memory, its device state, and its frozen layers. */
  async function makeTemplate() {
    const spec = await harness().createSpec("count-hostile iomem=relaxed");
    const vm = await start(spec);
    await untilSaid(vm, /count 3 /);
    await vm.stop();
    const deviceState = join(harness().folder, "template.state");
    await vm.saveDeviceState(deviceState);
    const baseFile = join(harness().folder, "template.memory");
    const memory = await vm.openMemory();
    {
      await using file = await open(baseFile, "w");
      await file.truncate(memory.sizeBytes);
      for (const { firstPage, pageCount } of await memory.changedPages()) {
        const bytes = Buffer.alloc(pageCount * pageBytes);
        memory.read(firstPage, bytes);
        await file.write(bytes, 0, bytes.length, firstPage * pageBytes);
      }
      await file.chmod(0o444);
    }
    memory.close();
    const layers = await vm.layers();
    await vm.kill();

    async function instance(): Promise<VmSpec> {
      const next = await harness().createSpec("count");
      const disks = await harness().shareLayers(spec, layers, next);
      return { ...next, disks, begin: { kind: "restore", baseFile, deviceState, fill: async () => undefined } };
    }
    const disks = must(spec.disks ?? undefined, "disks");
    const shared = [baseFile, deviceState, disks.root.base, disks.agentDisk, ...layers.map((layer) => join(disks.root.folder, layer))];
    return { instance, shared };
  }

  test("a guest that writes into every register of its devices harms itself alone", async () => {
    const { instance, shared } = await makeTemplate();
    const before = await digests(shared);
    const neighbour = await start(await instance());
    await untilSaid(neighbour, /count \d+ disk \d+ memory ok/);

    const hostileSpec = await instance();
    const scribble = join(harness().folder, "scribble.squashfs");
    await writeFile(scribble, Buffer.alloc(MiB, "scribble"), { mode: 0o444 });
    const hostile = await start({ ...hostileSpec, disks: { ...must(hostileSpec.disks ?? undefined, "disks"), agentDisk: scribble } });
    await untilSaid(hostile, /scribbling/);
    expect(await untilSaid(hostile, /scribbled \d+ registers|the VMM ended/)).toMatch(/scribbled [1-9]\d\d+|the VMM ended/);

    expect(await digests(shared)).toEqual(before);
    const numberOf = async () => Number([...(await neighbour.console(MiB)).toString("latin1").matchAll(/count (\d+) /g)].at(-1)?.[1]);
    const number = await numberOf();
    await poll({ what: "the neighbour's next numbers", timeoutMs: upTimeoutMs }, async () =>
      (await numberOf()) >= number + 3 ? true : undefined,
    );
    expect((await neighbour.console(MiB)).toString("latin1")).not.toContain("damaged");
    await hostile.kill();
    // The template is as good as it was
    const later = await start(await instance());
    await untilSaid(later, /count 4 disk 3 memory ok/);
    expect(await digests(shared)).toEqual(before);
  });

  test("a guest finds no balloon to give pages back through", async () => {
    const vm = await start(await harness().createSpec("count"));
    const { qmp } = vm as QemuVm;
    await expect(qmp.execute("query-balloon")).rejects.toThrow(/[Nn]o balloon device/);
    await expect(qmp.execute("balloon", { value: MiB })).rejects.toThrow(/[Nn]o balloon device/);
  });

  test("a VMM that was taken over can open nothing shared for writing, nor put anything in its place", async () => {
    const { instance, shared } = await makeTemplate();
    const before = await digests(shared);
    const spec = await instance();
    const { record } = await start(spec);
    const layers = spec.disks?.root.layers ?? [];
    const [frozen = "", top = ""] = layers;
    expect(layers.length).toBe(2);
    const asVmm = (script: string) => enter(record, [`--setuid=${spec.uid}`, `--setgid=${spec.gid}`], script);
    const asItsRoot = (script: string) => enter(record, [], script);

    await asVmm(`head -c 4 /vm/memory >/dev/null; head -c 4 /vm/disk/${frozen} >/dev/null; : >>/vm/disk/${top}`);
    for (const path of ["/vm/memory", `/vm/disk/${frozen}`]) {
      for (const script of [`: >>${path}`, `: >${path}`, `dd if=/dev/zero of=${path} count=1 conv=notrunc`, `truncate -s 0 ${path}`]) {
        await expect(asVmm(script), script).rejects.toThrow(CommandError);
      }
      for (const script of [`chmod 666 ${path}`, `rm -f ${path}`, `mv ${path} ${path}2`, `ln ${path} /vm/run/link`]) {
        await expect(asVmm(script), script).rejects.toThrow(/not permitted|denied|Read-only|busy|cross-device/i);
      }
    }
    for (const script of [`rm -f /vm/disk/${top}`, `mv /vm/disk/${top} /vm/disk/x.qcow2`, ": >/vm/disk/new", "ls /vm/disk"]) {
      await expect(asVmm(script), script).rejects.toThrow(/denied/);
    }
    // Even root could not, where only the mount says so
    await expect(asItsRoot(": >>/vm/memory")).rejects.toThrow(/Read-only file system/);
    // The base image and the agent disk: descriptors opened for reading, and no path at all
    for (const path of [spec.disks?.root.base ?? "", spec.disks?.agentDisk ?? ""]) {
      expect([...new Set(await accessModes(record.vmm.pid, path))], path).toEqual(["read"]);
      expect(await accessModes(record.supervisor.pid, path), path).toEqual([]);
    }
    expect(await asItsRoot("find / -path /usr -prune -o -type f -print | sort")).toBe(
      [
        "/etc/ld.so.cache",
        "/vm/initramfs",
        "/vm/kernel",
        "/vm/memory",
        ...layers.map((layer) => `/vm/disk/${layer}`),
        "/vm/run/console",
        "/vm/run/vmm.pid",
      ]
        .toSorted()
        .join("\n"),
    );
    expect(await digests(shared)).toEqual(before);
  });

  test("what a VMM puts where its device state belongs is not followed", async () => {
    const spec = await harness().createSpec("count");
    const vm = await start(spec);
    await untilSaid(vm, /count 1 /);
    await vm.stop();
    const victim = join(harness().folder, "victim");
    await writeFile(victim, "untouched");
    await chmod(victim, 0o666);
    const asVmm = (script: string) => enter(vm.record, [`--setuid=${spec.uid}`, `--setgid=${spec.gid}`], script);
    for (const [index, plant] of [`ln -s ${victim} /vm/run/device.state`, "mkfifo /vm/run/device.state"].entries()) {
      await asVmm(plant);
      const path = join(harness().folder, `state-${index}`);
      await vm.saveDeviceState(path);
      expect((await lstat(path)).size).toBeGreaterThan(1_000);
      expect((await lstat(path)).mode & 0o7777).toBe(0o444);
    }
    await asVmm("mkdir /vm/run/device.state");
    await expect(vm.saveDeviceState(join(harness().folder, "state-x"))).rejects.toThrow(/EISDIR|directory/);
    await asVmm("rmdir /vm/run/device.state");
    await vm.saveDeviceState(join(harness().folder, "state-y"));
    expect(await readFile(victim, "utf8")).toBe("untouched");
  });
});

async function digests(paths: readonly string[]): Promise<Record<string, string>> {
  const entries = paths.map(
    async (path) =>
      [
        path,
        createHash("sha256")
          .update(await readFile(path))
          .digest("hex"),
      ] as const,
  );
  return Object.fromEntries(await Promise.all(entries));
}

/** How the descriptors of a process that are this file's were opened. */
async function accessModes(pid: number, path: string): Promise<string[]> {
  const wanted = await stat(path);
  const modes: string[] = [];
  for (const descriptor of await readdir(`/proc/${pid}/fd`)) {
    const status = await stat(`/proc/${pid}/fd/${descriptor}`).catch(() => undefined); // closed meanwhile
    if (status?.ino !== wanted.ino || status.dev !== wanted.dev) continue;
    const flags = /^flags:\t([0-7]+)$/m.exec(await readFile(`/proc/${pid}/fdinfo/${descriptor}`, "utf8"))?.[1];
    modes.push((Number.parseInt(flags ?? "1", 8) & 3) === 0 ? "read" : "write");
  }
  return modes;
}

/** Runs a script where the VMM is, with the programs it has. */
async function enter(record: VmRecord, identity: readonly string[], script: string): Promise<string> {
  const target = [`--target=${record.vmm.pid}`, "--mount", "--root", "--wd=/", ...identity, "--"];
  return (await run(["/usr/bin/nsenter", ...target, "/usr/bin/sh", "-ec", script])).trim();
}
