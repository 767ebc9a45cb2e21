import { once } from "node:events";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";

import { tunnelsPerSandboxMax } from "@roost/contract";
import type { SandboxHandle } from "@roost/sdk";

import { CliError } from "../failure.ts";
import { joinTunnel } from "./join-tunnel.ts";

export interface LocalForwardOptions {
  readonly sandbox: Pick<SandboxHandle, "tunnel">;
  readonly port: number;
  readonly localAddress: string;
  /** 0: one that is free */
  readonly localPort: number;
  /** Told of each connection that could not be carried to its end */
  readonly onFailure: (error: unknown) => void;
}

/** Listens on this machine and carries each connection to a port of a sandbox. */
export class LocalForward implements AsyncDisposable {
  readonly address: AddressInfo;
  /** Connections that were carried or are */
  count = 0;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #over = new AbortController();

  private constructor(server: Server, options: LocalForwardOptions) {
    this.#server = server;
    this.address = server.address() as AddressInfo;
    server.on("connection", (socket) => void this.#carry(socket, options));
  }

  static async start(options: LocalForwardOptions): Promise<LocalForward> {
    const { localAddress: host, localPort: port } = options;
    const server = createServer({ allowHalfOpen: true, noDelay: true });
    server.maxConnections = tunnelsPerSandboxMax; // more would be refused by the platform
    try {
      server.listen({ host, port });
      await once(server, "listening");
    } catch (error) {
      const isTaken = (error as NodeJS.ErrnoException).code === "EADDRINUSE";
      throw new CliError(`cannot listen on ${host}:${port}: ${(error as Error).message}`, {
        ...(isTaken ? { hint: "something else listens there; leave the port out to get a free one" } : {}),
        cause: error,
      });
    }
    return new LocalForward(server, options);
  }

  async #carry(socket: Socket, { sandbox, port, onFailure }: LocalForwardOptions): Promise<void> {
    this.count += 1;
    this.#sockets.add(socket);
    socket.on("error", () => undefined); // whoever joins it is told
    socket.once("close", () => this.#sockets.delete(socket));
    try {
      const tunnel = await sandbox.tunnel(port, { signal: this.#over.signal });
      await joinTunnel(socket, tunnel);
    } catch (error) {
      if (!socket.destroyed) socket.resetAndDestroy();
      const isOwn = this.#over.signal.aborted || (error as NodeJS.ErrnoException).code === "ERR_STREAM_PREMATURE_CLOSE" || isReset(error);
      if (!isOwn) onFailure(error);
    }
  }

  /** Stops listening and cuts what is open. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort(new Error("forwarding has ended"));
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** The program at this end broke its connection off: its own affair. */
function isReset(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ECONNRESET" || code === "EPIPE";
}
