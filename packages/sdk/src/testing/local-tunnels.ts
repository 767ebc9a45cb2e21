import { connect } from "node:net";
import { Duplex } from "node:stream";

import { tunnelClientSchema, type TunnelServerMessage } from "@roost/contract";
import type { WebSocket } from "ws";

import { jsonOf } from "./fake-call.ts";

/** A tunnel to a port of this machine. */
export function joinLocalPort(socket: WebSocket, port: number): void {
  const say = (message: TunnelServerMessage) => socket.send(JSON.stringify(message));
  const refuse = (why: string) => {
    say({ type: "error", code: "guest_unreachable", data: why });
    socket.close(1011);
  };
  const local = connect({ host: "127.0.0.1", port, allowHalfOpen: true });
  const bytes = new Duplex({
    read: () => undefined,
    write: (chunk: Buffer, _encoding, done) => socket.send(chunk, { binary: true }, () => done()),
    final: (done) => {
      say({ type: "end" });
      done();
    },
  });
  socket.on("message", (data, isBinary) => {
    if (isBinary) bytes.push(data);
    else if (tunnelClientSchema.parse(jsonOf(data)).type === "end") bytes.push(null);
  });
  socket.on("close", () => local.destroy());
  local.once("connect", () => {
    say({ type: "start" });
    local.pipe(bytes);
    bytes.pipe(local);
  });
  local.on("error", (error) => refuse(`could not reach port ${port} of the sandbox: ${error.message}`));
  local.on("close", () => socket.close(1000));
}
