import type { Duplex } from "node:stream";

import { guestAgentPort, PlatformError, type GuestTunnels } from "@roost/contract";
import { sleep } from "@roost/kit";

import type { SandboxRow } from "../db/sandboxes.ts";
import { TunnelAgent } from "../guest/tunnel-agent.ts";

/** Dials of a port on which nothing listens: a server that was just started may need a moment */
const dialsMax = 5;
/** What is waited longer before each further dial in `ms`; 1 s in all */
const dialBackoffMs = 100;
/** Unused connections kept per port: as many commands as programs usually have at once need no new dial */
const idleConnectionsMax = 16;

interface Vm {
  readonly hostId: string;
  /** Unix `ms`; a VM that was started later is a later one */
  readonly started: number;
  /** Keeps connections for the next request */
  readonly pooled: TunnelAgent;
  /** Makes a connection for each request */
  readonly single: TunnelAgent;
}

/** Connections to ports of guests, kept for the next request, and ended with the VM that they lead to. */
export class GuestConnections {
  readonly #tunnelsOf: (hostId: string) => GuestTunnels;
  readonly #vms = new Map<string, Vm>();

  constructor(tunnelsOf: (hostId: string) => GuestTunnels) {
    this.#tunnelsOf = tunnelsOf;
  }

  /**
   * Node's HTTP client for a port. `isRepeatable`: the request may be sent twice, so it may go out on a connection that the guest's server might
   * close at this very moment. The guest agent never closes one that is in use here, so everything to it may.
   */
  agentOf(sandbox: SandboxRow, port: number, isRepeatable: boolean): TunnelAgent {
    const vm = this.#vmOf(sandbox);
    return isRepeatable || port === guestAgentPort ? vm.pooled : vm.single;
  }

  /** A tunnel to a port. Rejects with a `PlatformError`: `guest_unreachable` when nothing listens there. */
  async #dial(sandbox: SandboxRow, port: number, signal: AbortSignal): Promise<Duplex> {
    const tunnels = this.#tunnelsOf(sandbox.host_id);
    for (let dials = 1; ; dials += 1) {
      try {
        return await tunnels.connect(sandbox.id, port, signal);
      } catch (error) {
        if (signal.aborted) throw new PlatformError("guest_unreachable", "the sandbox did not answer in time", { cause: error });
        if (!(error instanceof PlatformError) || error.code !== "guest_unreachable" || dials === dialsMax) throw error;
      }
      await sleep(dials * dialBackoffMs);
    }
  }

  /** Ends the connections into a sandbox whose VM is gone. */
  drop(sandboxId: string): void {
    const vm = this.#vms.get(sandboxId);
    this.#vms.delete(sandboxId);
    vm?.pooled.destroy();
    vm?.single.destroy();
  }

  /** Lets go of unused connections, and of those in use when their request has ended. */
  retire(sandboxId: string): void {
    this.#vms.get(sandboxId)?.pooled.retire();
  }

  close(): void {
    for (const sandboxId of this.#vms.keys()) this.drop(sandboxId);
  }

  #vmOf(sandbox: SandboxRow): Vm {
    const started = sandbox.time_started?.getTime() ?? 0;
    const known = this.#vms.get(sandbox.id);
    if (known?.started === started && known.hostId === sandbox.host_id) return known;
    if (known !== undefined && known.started > started) {
      throw new PlatformError("sandbox_wrong_state", `sandbox ${sandbox.id} has another VM meanwhile`); // the record is looked at anew
    }
    this.drop(sandbox.id);
    const connect = async (port: number, signal: AbortSignal) => this.#dial(sandbox, port, signal);
    const vm = {
      hostId: sandbox.host_id,
      started,
      pooled: new TunnelAgent({ connect, idleConnectionsMax }),
      single: new TunnelAgent({ connect, idleConnectionsMax: 0 }),
    };
    this.#vms.set(sandbox.id, vm);
    return vm;
  }
}
