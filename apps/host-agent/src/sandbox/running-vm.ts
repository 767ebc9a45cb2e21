import type { Logger } from "@roost/kit";

import { GuestClient, type GuestDial } from "../guest/guest-client.ts";
import { GuestRecovery } from "../guest/guest-recovery.ts";
import { TunnelSet } from "../guest/tunnel-set.ts";
import type { GuestLogCollector } from "../logs/guest-log-collector.ts";
import type { Slot } from "../network/network.ts";
import type { Vm } from "../vmm/driver.ts";
import { Activity } from "./activity.ts";
import type { SandboxContext } from "./context.ts";
import type { SandboxSpec } from "./sandbox-record.ts";

/** A sandbox's VM with all that goes on around it as long as it runs. */
export class RunningVm {
  readonly vm: Vm;
  readonly slot: Slot;
  readonly client: GuestClient;
  readonly recovery: GuestRecovery;
  readonly tunnels: TunnelSet;
  readonly activity: Activity;
  readonly logs: GuestLogCollector;
  readonly #log: Logger;
  readonly #ended = new AbortController();
  readonly #checkpointTimer: NodeJS.Timeout | undefined;

  constructor(options: {
    readonly vm: Vm;
    readonly slot: Slot;
    readonly spec: () => SandboxSpec;
    readonly context: SandboxContext;
    readonly timeLastActiveMs: number;
    /** The inactivity timer starts with at least this much left, in `ms` */
    readonly graceMs?: number;
    readonly onInactive: () => void;
    readonly onCheckpointDue: () => void;
    readonly log: Logger;
  }) {
    const { context, slot } = options;
    this.#log = options.log;
    this.vm = options.vm;
    this.slot = slot;
    const dial: GuestDial = (port, dialOptions) => context.network.dial(slot, port, dialOptions);
    this.client = new GuestClient(dial, options.spec().accessToken);
    this.logs = context.logs.follow(options.spec().sandboxId, this.client, this.#ended.signal);
    this.recovery = new GuestRecovery({
      client: this.client,
      spec: options.spec,
      log: options.log,
      timeoutMs: context.times.guestRecoveryTimeoutMs,
      signal: this.#ended.signal,
    });
    this.activity = new Activity({
      timeoutSec: options.spec().timeoutSec,
      timeLastActiveMs: options.timeLastActiveMs,
      onInactive: options.onInactive,
      ...(options.graceMs === undefined ? {} : { graceMs: options.graceMs }),
    });
    this.tunnels = new TunnelSet({ dial, activity: this.activity, recovery: this.recovery });
    const { checkpointIntervalSec } = options.spec();
    if (checkpointIntervalSec > 0) {
      this.#checkpointTimer = setInterval(options.onCheckpointDue, checkpointIntervalSec * 1_000);
      this.#checkpointTimer.unref();
    }
  }

  get signal(): AbortSignal {
    return this.#ended.signal;
  }

  /** Waits for connections to ports, once nothing new comes: control planes have heard of the pause, and let go of what would not end by itself. */
  async drainPorts(timeoutMs: number): Promise<void> {
    if (await this.tunnels.portsDrained(timeoutMs, this.vm.exited)) return;
    this.#log.info({ tunnels: this.tunnels.size }, "connections are cut by a pause: they did not end in time");
  }

  /** Cuts all tunnels and ends timers and checks; the VM itself is left as it is. Idempotent. */
  end(reason: Error): void {
    clearInterval(this.#checkpointTimer);
    this.activity.close();
    this.#ended.abort(reason);
    this.tunnels.end(reason);
    this.logs.end();
  }
}
