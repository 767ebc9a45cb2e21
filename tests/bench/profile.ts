import { readdir, readFile } from "node:fs/promises";

import type { TestPlatform } from "../support/test-platform.ts";
import { median } from "./report.ts";
import { vmmsOf } from "./processes.ts";

/** Who used CPU in one sample, in `ms`. */
type Shares = Map<string, number>;

interface ThreadTimes {
  readonly label: string;
  readonly ranMs: number;
  readonly waitedMs: number;
}

/**
 * With `--profile`: where the time of a row goes. The kernel knows of each thread for how long it ran and for how long it wanted to run and had
 * no CPU (/proc/<pid>/task/<tid>/schedstat, in ns); what is left of a sample is waiting: for a disk, a timer, an answer.
 */
export class Profile {
  readonly #platform: TestPlatform;
  readonly #isOn: boolean;
  readonly #samples: Shares[] = [];

  constructor(platform: TestPlatform, isOn: boolean) {
    this.#platform = platform;
    this.#isOn = isOn;
  }

  /** Runs one sample, which is timed without what the profile itself costs; named steps of it can be added by `step`. */
  async sample(work: (step: (name: string, ms: number) => void) => Promise<number>): Promise<number> {
    const shares: Shares = new Map();
    const add = (name: string, ms: number) => shares.set(name, (shares.get(name) ?? 0) + ms);
    if (!this.#isOn) return work(() => undefined);
    const before = await this.#threads();
    const totalMs = await work((name, ms) => add(`step: ${name}`, ms));
    const after = await this.#threads();
    add("whole sample", totalMs);
    for (const [key, { label, ranMs, waitedMs }] of after) {
      add(`ran: ${label}`, ranMs - (before.get(key)?.ranMs ?? 0));
      add("wanted a CPU (all threads)", waitedMs - (before.get(key)?.waitedMs ?? 0));
    }
    this.#samples.push(shares);
    return totalMs;
  }

  /** Medians, the largest first. */
  text(): string {
    const names = new Set(this.#samples.flatMap((shares) => [...shares.keys()]));
    const lines = [...names]
      .map((name) => ({ name, ms: median(this.#samples.map((shares) => shares.get(name) ?? 0)) }))
      .filter(({ ms }) => ms >= 0.5)
      .sort((a, b) => b.ms - a.ms)
      .map(({ name, ms }) => `    ${ms.toFixed(1).padStart(8)} ms  ${name}\n`);
    return lines.join("");
  }

  async #threads(): Promise<Map<string, ThreadTimes>> {
    const found = new Map<string, ThreadTimes>();
    const vmms = await vmmsOf(this.#platform.folder);
    const processes = [
      ...vmms.map((pid) => ({ pid, name: "VMM" })),
      { pid: this.#platform.pid, name: "platform" },
      { pid: process.pid, name: "bench" },
    ];
    for (const { pid, name } of processes) {
      for (const tid of await readdir(`/proc/${pid}/task`).catch(() => [])) {
        const times = await readThread(pid, tid, name);
        if (times !== undefined) found.set(`${pid}/${tid}`, times);
      }
    }
    return found;
  }
}

async function readThread(pid: number, tid: string, name: string): Promise<ThreadTimes | undefined> {
  try {
    const folder = `/proc/${pid}/task/${tid}`;
    const [ran = 0, waited = 0] = (await readFile(`${folder}/schedstat`, "latin1")).split(" ").map(Number);
    const thread = Number(tid) === pid ? "main thread" : `other threads (${(await readFile(`${folder}/comm`, "latin1")).trim()})`;
    return { label: `${name}, ${thread}`, ranMs: ran / 1e6, waitedMs: waited / 1e6 };
  } catch {
    return undefined; // ended while we looked
  }
}
