import type { Logger } from "@roost/kit";

import type { RunningVm } from "../sandbox/running-vm.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import { cpuTimeSec } from "./cpu-time.ts";

const tickMs = 1_000;
/**
 * How often a guest is asked for its memory and disk in `ms`. An answer costs an emulated guest 5 to 10 ms of CPU, an idle sandbox
 * may use 10 ms per second in all, and there may be hundreds: CPU is read on the host each second, the guest is asked rarely.
 */
const guestIntervalMs = 30_000;
/** Answers older than this in `ms` are refreshed when somebody looks. */
const guestFreshMs = 2_000;
/** How often a guest in which something goes on is asked for its log in `ms`; of one that rests, its metrics tell when there is something. */
const logsIntervalMs = 5_000;
/** What a guest that rests uses of one CPU, in percent; a process that starts uses more. */
const restingPercent = 2;
/** How often the instant of last activity is written down in `ms`, while it changes. */
const activityIntervalMs = 10_000;

interface Sampled {
  cpuSec: number | undefined;
  atMs: number;
  guestAskedMs: number;
  guestDueMs: number;
  guestAsking: Promise<void> | undefined;
  logsAskedMs: number;
  /** Whether something went on since its log was asked for */
  isLogDue: boolean;
  logsActivityMs: number;
  activitySavedMs: number;
  activityOfMs: number;
}

/** One timer for all sandboxes of the host. */
export class Sampler {
  readonly #sandboxes: () => Iterable<Sandbox>;
  readonly #log: Logger;
  readonly #sampled = new WeakMap<Sandbox, Sampled>();
  #timer: NodeJS.Timeout | undefined;
  #tick: Promise<void> | undefined;

  constructor(sandboxes: () => Iterable<Sandbox>, log: Logger) {
    this.#sandboxes = sandboxes;
    this.#log = log;
  }

  start(): void {
    this.#timer = setInterval(() => {
      // A tick that takes longer than a second makes the next ones be left out, not queue up
      this.#tick ??= this.sampleAll()
        .catch((error: unknown) => this.#log.error({ err: error }, "sampling failed"))
        .finally(() => {
          this.#tick = undefined;
        });
    }, tickMs);
    this.#timer.unref();
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#tick;
  }

  async sampleAll(): Promise<void> {
    for (const sandbox of this.#sandboxes()) await this.#sample(sandbox);
  }

  /** Asks the guest now, unless it was asked just before; a guest that does not answer leaves the old values. */
  async refreshGuest(sandbox: Sandbox): Promise<void> {
    const sampled = this.#stateOf(sandbox);
    if (performance.now() - sampled.guestAskedMs >= guestFreshMs) this.#askGuest(sandbox, sampled);
    await sampled.guestAsking;
  }

  #stateOf(sandbox: Sandbox): Sampled {
    let sampled = this.#sampled.get(sandbox);
    if (sampled === undefined) {
      sampled = {
        cpuSec: undefined,
        atMs: 0,
        guestAskedMs: Number.NEGATIVE_INFINITY,
        guestDueMs: 0,
        guestAsking: undefined,
        logsAskedMs: performance.now() + Math.random() * logsIntervalMs, // those that were adopted are not asked all at once
        isLogDue: false,
        logsActivityMs: 0,
        activitySavedMs: performance.now(),
        activityOfMs: 0,
      };
      this.#sampled.set(sandbox, sampled);
    }
    return sampled;
  }

  async #sample(sandbox: Sandbox): Promise<void> {
    const { running } = sandbox;
    if (running === undefined) return;
    const sampled = this.#stateOf(sandbox);
    const nowMs = performance.now();
    const cpuSec = await cpuTimeSec(running.vm.record.vmm);
    if (cpuSec !== undefined) {
      if (sampled.cpuSec !== undefined) {
        const elapsedSec = (nowMs - sampled.atMs) / 1_000;
        const percent = ((cpuSec - sampled.cpuSec) / elapsedSec) * 100;
        const share = percent / sandbox.record.spec.vcpus;
        sandbox.metrics.push(Math.trunc(Date.now() / 1_000), Math.min(100, Math.max(0, share)));
        sampled.isLogDue ||= percent > restingPercent;
      }
      sampled.cpuSec = cpuSec;
      sampled.atMs = nowMs;
    }
    if (nowMs >= sampled.guestDueMs) this.#askGuest(sandbox, sampled);
    const activeMs = running.activity.timeLastActiveMs;
    collectLogs(running, sampled, activeMs, nowMs);
    if (activeMs !== sampled.activityOfMs && nowMs - sampled.activitySavedMs >= activityIntervalMs) {
      sampled.activitySavedMs = nowMs;
      sampled.activityOfMs = activeMs;
      await sandbox.saveLastActive();
    }
  }

  #askGuest(sandbox: Sandbox, sampled: Sampled): void {
    const { running } = sandbox;
    if (running === undefined || sampled.guestAsking !== undefined) return;
    sampled.guestAskedMs = performance.now();
    // Not on the beat: sandboxes that were started together are soon no longer asked together
    sampled.guestDueMs = sampled.guestAskedMs + guestIntervalMs * (0.75 + Math.random() / 2);
    sampled.guestAsking = running.client
      .metrics(running.signal)
      .then(({ metrics, logMark }) => {
        sandbox.metrics.setGuest(metrics);
        if (logMark !== undefined && running.logs.isBehind(logMark)) sampled.isLogDue = true;
      })
      .catch((error: unknown) => {
        this.#log.debug({ err: error, sandboxId: sandbox.id }, "a guest did not tell its metrics");
        running.recovery.notice("its metrics could not be read");
      })
      .finally(() => {
        sampled.guestAsking = undefined;
      });
  }
}

function collectLogs(running: RunningVm, sampled: Sampled, activeMs: number, nowMs: number): void {
  sampled.isLogDue ||= activeMs !== sampled.logsActivityMs;
  if (!sampled.isLogDue || nowMs - sampled.logsAskedMs < logsIntervalMs) return;
  sampled.isLogDue = false;
  sampled.logsAskedMs = nowMs;
  sampled.logsActivityMs = activeMs;
  void running.logs.collect(logsIntervalMs);
}
