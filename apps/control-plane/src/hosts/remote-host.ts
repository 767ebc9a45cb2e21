import { connect } from "node:tls";

import { Code, ConnectError } from "@connectrpc/connect";
import { createConnectTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { MiB, second } from "@roost/kit";

import type { HostDependency } from "./host-link.ts";
import { NotConnectedError, type HostPeer } from "./host-peer.ts";
import { RemoteTunnels } from "./remote-tunnels.ts";

/** Time for a connection and its handshake in `ms`: far hosts need a second; what takes longer is not there */
const connectTimeoutMs = 5 * second;
/** A connection is asked whether it is alive after this much silence in `ms`, and given up when it does not say so */
const pingIntervalMs = 10 * second;
const pingTimeoutMs = 5 * second;
/** Longest message of a host agent in `bytes`: a list of all its sandboxes has a few MiB */
const messageBytesMax = 64 * MiB;

export interface RemoteHost extends HostDependency {
  /** Lets go of the present connection: the next call makes one as things are then. */
  reconnect(): void;
  close(): void;
}

/** `hostagent.v1` and guest tunnels of a host on another machine. Connects when it is first needed, and again whenever a connection is lost. */
export function connectRemoteHost(peer: HostPeer): RemoteHost {
  const authority = `https://${peer.hostId}.host`;
  const sessions = new Http2SessionManager(
    authority,
    { pingIntervalMs, pingTimeoutMs },
    {
      createConnection: () => {
        const socket = connect({ ...peer.tls(), ALPNProtocols: ["h2"] });
        const timer = setTimeout(
          () => socket.destroy(new NotConnectedError(`no connection within ${connectTimeoutMs / second} s`)),
          connectTimeoutMs,
        );
        socket.once("secureConnect", () => clearTimeout(timer));
        socket.once("close", () => clearTimeout(timer));
        socket.setNoDelay(true);
        return socket;
      },
    },
  );
  const transport = createConnectTransport({
    httpVersion: "2",
    baseUrl: authority,
    sessionManager: sessions,
    acceptCompression: [],
    readMaxBytes: messageBytesMax,
  });
  return {
    id: peer.hostId,
    transport,
    tunnels: new RemoteTunnels(peer),
    reconnect: () => sessions.abort(unavailable("the host's connection is made anew")),
    close: () => sessions.abort(unavailable("the host is no part of this installation any more")),
  };
}

function unavailable(why: string): ConnectError {
  return new ConnectError(why, Code.Unavailable);
}
