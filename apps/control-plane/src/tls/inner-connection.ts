import type { Server } from "node:http";
import { duplexPair, type Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";

/** Of whoever is at the other end of a connection, as servers ask for it. */
export type PeerOf = Pick<TLSSocket, "remoteAddress" | "remotePort">;

/** A connection to an HTTP server of this process that passes through no socket; the server takes it for the peer's own, by TLS. */
export function connectWithin(server: Server, { remoteAddress, remotePort }: PeerOf): Duplex {
  const [near, far] = duplexPair();
  for (const [one, other] of [
    [near, far],
    [far, near],
  ] as const) {
    one.on("error", () => undefined); // its close says as much
    // One that ended in order has said so through the pair, behind what it sent
    one.once("close", () => {
      if (!one.writableFinished) other.destroy();
    });
  }
  server.emit("connection", Object.assign(far, { remoteAddress, remotePort, encrypted: true }));
  return near;
}
