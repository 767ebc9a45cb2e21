import type { Socket } from "node:net";
import type { Server, TLSSocket } from "node:tls";

export interface PeerLimits {
  /** Connections at once of all who have not said who they are */
  readonly strangersMax: number;
  /** Connections at once of each who has */
  readonly perPeerMax: number;
  /** Who shows this certificate; undefined: a stranger, also with one */
  readonly nameOf: (socket: TLSSocket) => string | undefined;
}

/**
 * Keeps who has no certificate, or one peer alone, from taking all connections that a TLS server has to give. Above a limit the oldest connection goes, not the newest: a peer is done with its
 * handshake in a moment and no stranger any more, while who only wants to be in the way has to stay.
 */
export function limitPeers(server: Server, { strangersMax, perPeerMax, nameOf }: PeerLimits): void {
  const strangers = new Map<string, Socket>();
  const peers = new Map<string, Set<TLSSocket>>();
  server.on("connection", (socket: Socket) => {
    const key = keyOf(socket);
    if (key === undefined) return; // gone already
    strangers.set(key, socket);
    socket.once("close", () => {
      if (strangers.get(key) === socket) strangers.delete(key); // another connection may come from the same port already
    });
    endOldest(strangers.values(), strangers.size - strangersMax);
  });
  server.on("secureConnection", (socket: TLSSocket) => {
    if (socket.destroyed) return; // another listener refused it, and it shows no certificate any more
    const key = keyOf(socket);
    const name = nameOf(socket);
    if (key === undefined || name === undefined) return;
    strangers.delete(key);
    const own = peers.get(name) ?? new Set();
    peers.set(name, own.add(socket));
    socket.once("close", () => {
      own.delete(socket);
      if (own.size === 0 && peers.get(name) === own) peers.delete(name);
    });
    endOldest(own.values(), own.size - perPeerMax);
  });
}

function endOldest(sockets: Iterable<Socket>, count: number): void {
  let left = count;
  for (const socket of sockets) {
    if (left <= 0) return;
    socket.destroy(); // once more where it ends already
    left -= 1;
  }
}

/** The same of a connection below and above TLS; undefined when it has ended. */
function keyOf({ remoteAddress, remotePort }: Socket): string | undefined {
  return remoteAddress === undefined ? undefined : `${remoteAddress} ${remotePort}`;
}
