import type { Duplex } from "node:stream";

/** Where the guest agent listens inside every guest. */
export const guestAgentPort = 49_983;

/**
 * The other half of a host agent, beside the lifecycle RPCs of `hostagent.v1`: byte tunnels into guests.
 *
 * What happens inside a guest (commands, files, ports) is spoken end to end between the control plane and the guest
 * agent in the guest protocols; the host agent only carries bytes. So those protocols exist once, back-pressure is
 * TCP's, and a slow reader slows nobody else. An open tunnel is activity: while one is open the inactivity timer rests.
 */
export interface GuestTunnels {
  /**
   * A connection to a port of a running guest.
   * Rejects with `PlatformError`: sandbox_not_found, sandbox_wrong_state, guest_unreachable.
   * The stream is destroyed when the VM ends.
   */
  connect(sandboxId: string, port: number, signal?: AbortSignal): Promise<Duplex>;
}

/** Connect metadata in which a failed `hostagent.v1` call carries its catalogue code. */
export const errorCodeHeader = "roost-error-code";
