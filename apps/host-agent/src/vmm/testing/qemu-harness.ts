import { randomBytes } from "node:crypto";
import { chmod, chown, link, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { identifyProcess, isAlive, MiB, type Logger } from "@roost/kit";

import { createLayer, freezeLayer } from "../../disk/layers.ts";
import type { VmDisks, VmSpec } from "../driver.ts";
import { QemuDriver } from "../qemu/qemu-driver.ts";
import { ensureZeroMemory } from "../qemu/zero-memory.ts";
import type { DriverHarness } from "./contract-suite.ts";
import { makeTestInitramfs, type TestGuest } from "./test-guest.ts";

/** uids for test VMs: far from the host agent's own range, and one for each VM of a run. */
const firstUid = 1_990_000_000;

export interface QemuHarness extends DriverHarness {
  readonly folder: string;
  readonly memoryFolder: string;
  createDriver(): QemuDriver;
  /** A spec whose guest gets this `test=` argument. */
  createSpec(behaviour?: string): Promise<VmSpec>;
}

let specCount = 0;

/** Real VMs of QEMU on the smallest guest, in a folder that goes away. */
export async function createQemuHarness(guest: TestGuest, log?: Logger): Promise<QemuHarness> {
  const folder = await mkdtemp(join(tmpdir(), "roost-vmm-"));
  const memoryFolder = join(folder, "memory");
  const initramfs = await makeTestInitramfs(folder, guest.initramfs);
  const cgroupParent = `roost-test-${process.pid}`;
  const specs: VmSpec[] = [];

  const base = join(folder, "base.raw");
  const agentDisk = join(folder, "agent.squashfs");
  for (const path of [base, agentDisk]) await writeFile(path, Buffer.alloc(MiB, "base"), { mode: 0o444 });

  /** A disk folder as the host agent has them, with these layers of another's and an empty one on top. */
  async function makeDisks(spec: VmSpec, lower: readonly { readonly name: string; readonly path: string }[]): Promise<VmDisks> {
    const disk = join(folder, `${spec.sandboxId}-disk`);
    await mkdir(disk);
    await chown(disk, 0, spec.gid);
    await chmod(disk, 0o710);
    for (const { name, path } of lower) {
      await freezeLayer(path);
      await link(path, join(disk, name));
    }
    const root = { base, folder: disk, sizeMib: 8 };
    const top = await makeLayer(root.folder, spec);
    return { root: { ...root, layers: [...lower.map(({ name }) => name), top] }, agentDisk };
  }

  async function makeLayer(disk: string, spec: VmSpec): Promise<string> {
    const name = `t${randomBytes(8).toString("hex")}.qcow2`;
    await createLayer({ path: join(disk, name), sizeMib: 8, uid: spec.uid, gid: spec.gid });
    return name;
  }

  async function createSpec(behaviour = "idle"): Promise<VmSpec> {
    specCount += 1;
    const sandboxId = `itest${process.pid}n${specCount}`;
    const vmFolder = join(folder, sandboxId);
    await mkdir(vmFolder);
    const uid = firstUid + (process.pid % 100_000) * 100 + (specCount % 100);
    const spec: VmSpec = {
      sandboxId,
      folder: vmFolder,
      vcpus: 1,
      memoryMib: 192,
      begin: { kind: "boot", kernel: guest.kernel, initramfs, kernelArguments: [`test=${behaviour}`] },
      disks: null,
      network: null,
      uid,
      gid: uid,
      cgroup: `${cgroupParent}/${sandboxId}`,
      accelerator: "tcg",
    };
    specs.push(spec);
    return behaviour.startsWith("count") ? { ...spec, disks: await makeDisks(spec, []) } : spec;
  }

  return {
    folder,
    memoryFolder,
    createDriver: () => new QemuDriver({ memoryFolder, ...(log === undefined ? {} : { log }) }),
    createSpec,
    crash: async (record) => {
      if (await isAlive(record.vmm)) process.kill(record.vmm.pid, "SIGKILL");
    },
    arrangeFailure: async (spec) => ({
      ...spec,
      begin: { kind: "boot", kernel: join(folder, "initramfs/init"), initramfs, kernelArguments: [] },
    }),
    leftovers: async () => [
      ...(await processesNaming(folder)),
      ...(await processesOf(specs.map((spec) => spec.uid))),
      ...(await mountsBelow(folder)),
      ...(await cgroupsNamed(cgroupParent)),
    ],
    zeroMemory: (memoryMib) => ensureZeroMemory(memoryFolder, memoryMib),
    newLayer: (spec) => makeLayer(spec.disks?.root.folder ?? "", spec),
    shareLayers: (from, layers, to) =>
      makeDisks(
        { ...to, sandboxId: `${to.sandboxId}s` }, // beside the one it was made with
        layers.map((name) => ({ name, path: join(from.disks?.root.folder ?? "", name) })),
      ),
    renameFolder: async (spec) => {
      await rename(spec.folder, `${spec.folder}-moved`);
      return `${spec.folder}-moved`;
    },
    close: () => rm(folder, { recursive: true, force: true }),
  };
}

async function processesNaming(folder: string): Promise<string[]> {
  return processesWhere(async (proc) => (await readFile(`${proc}/cmdline`, "utf8")).includes(folder));
}

async function processesOf(uids: readonly number[]): Promise<string[]> {
  return processesWhere(async (proc) => uids.includes(Number(/^Uid:\t(\d+)/m.exec(await readFile(`${proc}/status`, "utf8"))?.[1])));
}

async function processesWhere(matches: (proc: string) => Promise<boolean>): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await readdir("/proc")) {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue;
    const proc = `/proc/${pid}`;
    const isOurs = await matches(proc).catch(() => false);
    if (!isOurs || (await identifyProcess(Number(pid))) === undefined) continue; // a zombie waits for its parent to look
    found.push(`process ${pid}: ${await readFile(`${proc}/cmdline`, "utf8").catch(() => "gone")}`);
  }
  return found;
}

async function mountsBelow(folder: string): Promise<string[]> {
  const mounts = (await readFile("/proc/self/mountinfo", "utf8")).split("\n");
  return mounts.filter((line) => line.includes(folder)).map((line) => `mount ${line}`);
}

async function cgroupsNamed(name: string): Promise<string[]> {
  const root = "/sys/fs/cgroup";
  const found: string[] = [];
  for (const hierarchy of ["", ...(await readdir(root).catch(() => []))]) {
    const entries: string[] = await readdir(join(root, hierarchy)).catch(() => []); // v1 hierarchies are folders here, v2 is the root
    if (entries.includes(name)) found.push(`cgroup ${join(root, hierarchy, name)}`);
  }
  return found;
}
