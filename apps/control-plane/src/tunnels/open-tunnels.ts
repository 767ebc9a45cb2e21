import { PlatformError, tunnelsPerSandboxMax } from "@roost/contract";

/** One of the tunnels that a sandbox may have, until it is disposed of. */
export interface OpenTunnel extends Disposable {
  /** Aborts when the sandbox is about to be paused */
  readonly pausing: AbortSignal;
}

/** Tunnels that are open to each sandbox: counted, so that one user's cannot take the connections of all others, and told of pauses. */
export class OpenTunnels {
  readonly #open = new Map<string, Set<AbortController>>();

  /** One more; throws when there are too many. */
  take(sandboxId: string): OpenTunnel {
    const ofSandbox = this.#open.get(sandboxId) ?? new Set();
    if (ofSandbox.size >= tunnelsPerSandboxMax) {
      throw new PlatformError(
        "sandbox_busy",
        `this sandbox has ${tunnelsPerSandboxMax} tunnels open already; close some or try again later`,
        {
          retryAfterSec: 1,
        },
      );
    }
    const tunnel = new AbortController();
    ofSandbox.add(tunnel);
    this.#open.set(sandboxId, ofSandbox);
    return {
      pausing: tunnel.signal,
      [Symbol.dispose]: () => {
        ofSandbox.delete(tunnel);
        if (ofSandbox.size === 0 && this.#open.get(sandboxId) === ofSandbox) this.#open.delete(sandboxId);
      },
    };
  }

  /** Its host waits for connections to end before it saves the sandbox. */
  pausing(sandboxId: string): void {
    for (const tunnel of this.#open.get(sandboxId) ?? []) tunnel.abort();
  }
}
