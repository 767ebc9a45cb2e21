import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { identifyProcess, isAlive, type Logger } from "@roost/kit";

import type { DriverHarness } from "./contract-suite.ts";
import type { VmSpec } from "../driver.ts";
import { makeTestInitramfs } from "./test-guest.ts";
import { QemuDriver } from "../qemu/qemu-driver.ts";

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
export async function createQemuHarness(
  guest: { readonly kernel: string; readonly initramfs: string },
  log?: Logger,
): Promise<QemuHarness> {
  const folder = await mkdtemp(join(tmpdir(), "roost-vmm-"));
  const memoryFolder = join(folder, "memory");
  const initramfs = await makeTestInitramfs(folder, guest.initramfs);
  const cgroupParent = `roost-test-${process.pid}`;
  const specs: VmSpec[] = [];

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
      kernel: guest.kernel,
      initramfs,
      kernelArguments: [`test=${behaviour}`],
      disks: null,
      network: null,
      uid,
      gid: uid,
      cgroup: `${cgroupParent}/${sandboxId}`,
      accelerator: "tcg",
    };
    specs.push(spec);
    return spec;
  }

  return {
    folder,
    memoryFolder,
    createDriver: () => new QemuDriver({ memoryFolder, ...(log === undefined ? {} : { log }) }),
    createSpec,
    crash: async (record) => {
      if (await isAlive(record.vmm)) process.kill(record.vmm.pid, "SIGKILL");
    },
    arrangeFailure: async (spec) => ({ ...spec, kernel: join(folder, "initramfs/init") }),
    leftovers: async () => [
      ...(await processesNaming(folder)),
      ...(await processesOf(specs.map((spec) => spec.uid))),
      ...(await mountsBelow(folder)),
      ...(await cgroupsNamed(cgroupParent)),
    ],
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
