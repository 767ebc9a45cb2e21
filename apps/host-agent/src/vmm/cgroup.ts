import { randomBytes } from "node:crypto";
import { close, constants, openSync, write } from "node:fs";
import { access, mkdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";

import { assert, poll } from "@roost/kit";

const controllers = ["memory", "cpu", "pids"] as const;
export type CgroupController = (typeof controllers)[number];

export interface CgroupLimits {
  readonly memoryBytesMax: number;
  /** CPUs' worth of time, such as 1.5 */
  readonly cpusMax: number;
  /** Processes and threads */
  readonly pidsMax: number;
}

interface Hierarchy {
  readonly version: 1 | 2;
  readonly mountPoint: string;
  readonly controllers: readonly CgroupController[];
}

/** Period the CPU quota is counted over in `µs`; the kernel's default. */
const cpuPeriodUs = 100_000;
/** Time the last process of a cgroup may take to leave it after its death in `ms`. */
const removeTimeoutMs = 3_000;

/**
 * The cgroup hierarchies of this host that can limit a VM, version 1, version 2 or both side by side.
 *
 * Limits are a second line (the guest's memory is bounded by the VM's size, its CPUs by their number), so a host where
 * cgroups cannot be made, such as inside many containers, still runs VMs: `controllers` says what is enforced.
 */
export class Cgroups {
  readonly #hierarchies: readonly Hierarchy[];
  /** `cgroup.procs` of the cgroup this process is in */
  readonly #ownProcs: string | undefined;

  constructor(hierarchies: readonly Hierarchy[], ownProcs?: string) {
    this.#hierarchies = hierarchies;
    this.#ownProcs = ownProcs;
  }

  /** Finds what is mounted and writable, by making and removing a cgroup. */
  static async probe(): Promise<Cgroups> {
    const probeName = `roost-probe-${randomBytes(6).toString("hex")}`;
    const usable: Hierarchy[] = [];
    for (const hierarchy of await mountedHierarchies()) {
      const folder = join(hierarchy.mountPoint, probeName);
      try {
        await makeGroup(hierarchy, probeName);
        await access(join(folder, limitFile(hierarchy, hierarchy.controllers[0] ?? "memory")));
        usable.push(hierarchy);
      } catch {
        // not ours to use (read-only, no delegation): `controllers` tells what is missing
      }
      await rmdir(folder).catch(() => undefined); // it may never have been made
    }
    const [first] = usable;
    return new Cgroups(usable, first === undefined ? undefined : await ownProcs(first));
  }

  /** Controllers that limits are enforced with, in a fixed order. */
  get controllers(): readonly CgroupController[] {
    return controllers.filter((controller) => this.#hierarchies.some((hierarchy) => hierarchy.controllers.includes(controller)));
  }

  /** Makes a VM's cgroup and returns the `cgroup.procs` files through which a process joins it. */
  async create(name: string, limits: CgroupLimits): Promise<string[]> {
    checkName(name);
    const procs: string[] = [];
    for (const hierarchy of this.#hierarchies) {
      const folder = await makeGroup(hierarchy, name);
      for (const controller of hierarchy.controllers) {
        for (const [file, value] of limitValues(hierarchy.version, controller, limits)) await writeFile(join(folder, file), value);
      }
      procs.push(join(folder, "cgroup.procs"));
    }
    return procs;
  }

  /**
   * To be called when a process is about to join a cgroup. The first to join one after a while waits for a grace period of the kernel's RCU, some
   * 15 ms, and those that follow at once do not: this has the host agent wait, by "moving" it to where it is, while the process is still being started.
   */
  anticipateJoin(): void {
    if (this.#ownProcs === undefined) return;
    // One operation of the thread pool, under way at once: what follows may keep this thread busy
    const file = openSync(this.#ownProcs, "w");
    write(file, String(process.pid), () => close(file)); // if it fails the process waits itself
  }

  /** Removes a VM's cgroup once its processes are gone, and the folders above it that are empty then. Idempotent. */
  async remove(name: string): Promise<void> {
    checkName(name);
    for (const { mountPoint } of this.#hierarchies) {
      await poll({ what: `removal of cgroup ${name}`, timeoutMs: removeTimeoutMs, intervalMs: 5 }, () =>
        removeFolder(join(mountPoint, name)),
      );
      for (let parent = dirname(name); parent !== "."; parent = dirname(parent)) {
        const isEmpty = await rmdir(join(mountPoint, parent)).then(
          () => true,
          () => false, // another VM's is in it, or it is gone already
        );
        if (!isEmpty) break;
      }
    }
  }
}

/** The `cgroup.procs` of the cgroup this process is in; undefined when it is not to be seen from here. */
async function ownProcs(hierarchy: Hierarchy): Promise<string | undefined> {
  for (const line of (await readFile("/proc/self/cgroup", "utf8")).split("\n")) {
    const [, names, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    const isIt =
      hierarchy.version === 2 ? names === "" : hierarchy.controllers.some((controller) => names?.split(",").includes(controller));
    if (!isIt || path === undefined) continue;
    const procs = join(hierarchy.mountPoint, path, "cgroup.procs");
    return access(procs, constants.W_OK).then(
      () => procs,
      () => undefined, // in a container this process's cgroup may lie above what is mounted
    );
  }
  return undefined;
}

function checkName(name: string): void {
  assert(/^[a-z0-9-]+(\/[a-z0-9-]+)*$/.test(name), "a cgroup name is lower-case labels joined by slashes");
}

async function removeFolder(folder: string): Promise<true | undefined> {
  try {
    await rmdir(folder);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return true;
    throw error; // EBUSY: a process is still leaving
  }
}

async function makeGroup(hierarchy: Hierarchy, name: string): Promise<string> {
  let folder = hierarchy.mountPoint;
  for (const label of name.split("/")) {
    if (hierarchy.version === 2) {
      const enable = hierarchy.controllers.map((controller) => `+${controller}`).join(" ");
      await writeFile(join(folder, "cgroup.subtree_control"), enable);
    }
    folder = join(folder, label);
    await mkdir(folder).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    });
  }
  return folder;
}

function limitValues(
  version: 1 | 2,
  controller: CgroupController,
  limits: CgroupLimits,
): readonly (readonly [file: string, value: string])[] {
  const quotaUs = Math.ceil(limits.cpusMax * cpuPeriodUs);
  switch (controller) {
    case "memory":
      return [[version === 1 ? "memory.limit_in_bytes" : "memory.max", String(limits.memoryBytesMax)]];
    case "cpu":
      if (version === 2) return [["cpu.max", `${quotaUs} ${cpuPeriodUs}`]];
      return [
        ["cpu.cfs_period_us", String(cpuPeriodUs)],
        ["cpu.cfs_quota_us", String(quotaUs)],
      ];
    case "pids":
      return [["pids.max", String(limits.pidsMax)]];
  }
}

function limitFile(hierarchy: Hierarchy, controller: CgroupController): string {
  const none: CgroupLimits = { memoryBytesMax: 0, cpusMax: 0, pidsMax: 0 };
  return limitValues(hierarchy.version, controller, none).at(-1)?.[0] ?? "cgroup.procs";
}

async function mountedHierarchies(): Promise<Hierarchy[]> {
  const found: Hierarchy[] = [];
  for (const line of (await readFile("/proc/self/mountinfo", "utf8")).split("\n")) {
    // 32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct (proc_pid_mountinfo(5))
    const [before, after] = line.split(" - ");
    const mountPoint = before?.split(" ")[4];
    const [type, , options] = after?.split(" ") ?? [];
    if (mountPoint === undefined) continue;
    const names =
      type === "cgroup"
        ? options?.split(",")
        : type === "cgroup2"
          ? (await readFile(join(mountPoint, "cgroup.controllers"), "utf8").catch(() => "")).trim().split(" ")
          : undefined;
    const usable = controllers.filter((controller) => names?.includes(controller) === true);
    if (usable.length > 0) found.push({ version: type === "cgroup" ? 1 : 2, mountPoint, controllers: usable });
  }
  return found;
}
