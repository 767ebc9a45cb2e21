import type { Server, Socket } from "node:net";

/**
 * The connections below the TLS of a server. A connection that breaks has to be broken there, with a reset: Node reads one by TLS that just ends as a stream that is
 * complete, and has no reset for it.
 */
export class RawSockets {
  readonly #sockets = new Map<string, Socket>();

  constructor(server: Server) {
    server.on("connection", (socket: Socket) => {
      const key = keyOf(socket);
      this.#sockets.set(key, socket);
      socket.once("close", () => {
        if (this.#sockets.get(key) === socket) this.#sockets.delete(key); // another connection may come from the same port already
      });
    });
  }

  /** Those that are open. */
  get all(): Socket[] {
    return [...this.#sockets.values()];
  }

  /** Breaks the connection below one by TLS. */
  reset(socket: Socket): void {
    this.#sockets.get(keyOf(socket))?.resetAndDestroy();
  }
}

/** Of a connection to this listener, as long as it is open. */
function keyOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}
