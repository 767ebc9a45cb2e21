import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { finished } from "node:stream/promises";

import { PlatformError } from "@roost/contract";
import { second } from "@roost/kit";

import type { Guest } from "../guest/guest.ts";
import { closeCodes } from "../http/web-socket/json-socket.ts";
import type { OpenTunnel } from "./open-tunnels.ts";
import type { TunnelSocket } from "./tunnel-socket.ts";

/** Longest wait for the guest to accept in `ms`: a little longer than the host's own, whose error says more */
const connectTimeoutMs = 15 * second;

/** Silence in `ms` after which a connection does not hold a pause back any more */
const quietMs = 1 * second;

export interface AskedTunnel {
  /** One of the tunnels that its sandbox may have; throws when there is none left */
  readonly take: () => OpenTunnel;
  /** The guest; its sandbox may have to be resumed first */
  readonly reach: () => Promise<Guest>;
  readonly port: number;
}

/**
 * `ports/{port}/tunnel`: bytes both ways, as fast as the slower side takes them, until both have ended. Resolves when the client is gone, too;
 * rejects when the guest's side breaks off, so that the client is told and does not take it for an end.
 */
export async function serveTunnel(socket: TunnelSocket, { take, reach, port }: AskedTunnel): Promise<void> {
  using taken = take();
  const guest = await reach();
  if (socket.closed.aborted) return;
  const connection = await connect(guest, port, socket.closed);
  if (connection === undefined) return;
  await socket.send({ type: "start" });
  using quiet = cutWhenQuiet(taken.pausing, [socket.stream, connection]);
  try {
    await Promise.race([join(socket.stream, connection, AbortSignal.any([guest.ended, quiet.signal])), socket.misused]);
    socket.close(closeCodes.normal, "both sides have ended");
  } catch (error) {
    breakOff(connection);
    if (socket.closed.aborted) return;
    if (error instanceof PlatformError) throw error;
    const why = guest.ended.aborted ? "its VM has ended" : quiet.signal.aborted ? "the sandbox is paused" : "the sandbox broke it off";
    throw new PlatformError("guest_unreachable", `the connection to port ${port} is lost: ${why}`, { cause: error });
  }
}

/** Undefined when the client went away meanwhile. */
async function connect(guest: Guest, port: number, gone: AbortSignal): Promise<Duplex | undefined> {
  try {
    const connection = await guest.connect(port, AbortSignal.any([gone, AbortSignal.timeout(connectTimeoutMs)]));
    // It may break before it is joined; whoever joins it then is told.
    connection.on("error", () => undefined);
    connection.allowHalfOpen = true;
    if (!gone.aborted) return connection;
    connection.destroy();
    return undefined;
  } catch (error) {
    if (gone.aborted) return undefined;
    if (error instanceof PlatformError) throw error;
    throw new PlatformError("guest_unreachable", `could not reach port ${port} of the sandbox`, { cause: error, retryAfterSec: 1 });
  }
}

/** A signal that aborts when a pause is to come and nothing has moved for a moment: nobody can tell whether a connection that is silent is done, and the pause would wait for it. */
function cutWhenQuiet(pausing: AbortSignal, sides: readonly Duplex[]): Disposable & { readonly signal: AbortSignal } {
  const quiet = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const begin = () => {
    timer = setTimeout(() => quiet.abort(), quietMs);
    for (const side of sides) side.on("data", () => void timer?.refresh());
  };
  pausing.addEventListener("abort", begin, { once: true });
  if (pausing.aborted) begin();
  return { signal: quiet.signal, [Symbol.dispose]: () => clearTimeout(timer) };
}

/** Either side may end first, and the other goes on; rejects when one breaks. */
async function join(client: Duplex, guest: Duplex, signal: AbortSignal): Promise<void> {
  client.pipe(guest);
  guest.pipe(client);
  await Promise.all([finished(client, { signal }), finished(guest, { signal })]);
}

/** Closes a connection so that a server in the guest does not take what came for all there was. */
function breakOff(connection: Duplex & Partial<Pick<Socket, "resetAndDestroy">>): void {
  // Node cannot reset what has sent its end already: it would stay open. Nothing is lost by that, since the guest has heard the end.
  if (connection.resetAndDestroy !== undefined && !connection.writableEnded && !connection.destroyed) connection.resetAndDestroy();
  else connection.destroy();
}
