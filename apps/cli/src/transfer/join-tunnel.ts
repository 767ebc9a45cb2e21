import type { Duplex } from "node:stream";
import { finished } from "node:stream/promises";

/** A connection that may be reset. */
type Connection = Duplex & { resetAndDestroy?: () => unknown };

/** Carries bytes between two connections until both directions have ended; each may end before the other. Rejects, and breaks both, when one breaks. */
export async function joinTunnel(connection: Connection, tunnel: Duplex): Promise<void> {
  connection.pipe(tunnel);
  tunnel.pipe(connection);
  try {
    await Promise.all([finished(connection), finished(tunnel)]);
  } catch (error) {
    tunnel.destroy();
    // What broke off must not look ended. A connection that has sent its end cannot be reset any more.
    if (connection.resetAndDestroy !== undefined && !connection.writableEnded && !connection.destroyed) connection.resetAndDestroy();
    else connection.destroy();
    throw error;
  }
}
