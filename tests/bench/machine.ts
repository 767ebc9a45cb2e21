import { readFile } from "node:fs/promises";
import { cpus, totalmem } from "node:os";

import { GiB, sleep } from "@roost/kit";

import { withPlatform } from "./bench.ts";

/** How long the machine is watched before anything is measured in `ms`. */
const watchMs = 3_000;
/** Share of the CPUs that others may use before a report says that its figures are not the machine's. */
const busyShareMax = 0.05;

/** What is measured on. */
export async function describeMachine(): Promise<string> {
  return withPlatform({}, async (platform) => {
    const [host] = await platform.client.hosts.list();
    const hardware = `${cpus().length} cores (${cpus()[0]?.model}), ${Math.round(totalmem() / GiB)} GiB`;
    return `${hardware}; ${host?.description?.vmm_version}, accelerator ${host?.description?.accelerator}, guest kernel ${host?.description?.kernel_version}`;
  });
}

/** Who else uses the CPUs now, while we do nothing. */
export async function describeOthers(): Promise<string> {
  const before = await cpuTicks();
  await sleep(watchMs);
  const after = await cpuTicks();
  const share = (key: keyof CpuTicks) => (after[key] - before[key]) / (after.total - before.total);
  const text = `used by others just now: ${percent(share("busy"))} of the CPUs; taken by the machine below: ${percent(share("stolen"))}`;
  return share("busy") + share("stolen") <= busyShareMax ? text : `${text}\nBUSY MACHINE: figures are worse than it can do`;
}

interface CpuTicks {
  readonly total: number;
  /** Running anything, interrupts included */
  readonly busy: number;
  /** Wanted by this machine and given to another by the hypervisor below it */
  readonly stolen: number;
}

/** Since boot, of all CPUs together (proc_stat(5)). */
async function cpuTicks(): Promise<CpuTicks> {
  const [line = ""] = (await readFile("/proc/stat", "latin1")).split("\n");
  const [user = 0, nice = 0, system = 0, idle = 0, ioWait = 0, irq = 0, softIrq = 0, stolen = 0] = line.split(/\s+/).slice(1).map(Number);
  const busy = user + nice + system + irq + softIrq;
  return { total: busy + idle + ioWait + stolen, busy, stolen };
}

const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
