import { once } from "node:events";
import { Duplex } from "node:stream";
import { connect } from "node:tls";

/** What a TLS client of Node says first, to a server of this name or to one without. */
export async function clientHello(serverName?: string): Promise<Buffer> {
  const wire = new Duplex({
    read: () => undefined,
    write: (chunk, _encoding, done) => {
      wire.emit("said", chunk);
      done();
    },
  });
  const said = once(wire, "said");
  const socket = connect({ socket: wire, ...(serverName === undefined ? {} : { servername: serverName }) });
  socket.on("error", () => undefined);
  const [bytes] = (await said) as [Buffer];
  socket.destroy();
  return bytes;
}
