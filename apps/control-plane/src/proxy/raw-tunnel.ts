import type { Socket } from "node:net";
import type { Duplex } from "node:stream";

export interface RawTunnelOptions {
  readonly client: Duplex;
  /** What the client sent already */
  readonly clientHead: Buffer;
  readonly guest: Duplex;
  readonly guestHead: Buffer;
  /** Time in `ms` without a byte in either direction after which it is cut */
  readonly idleTimeoutMs: number;
  readonly cut: AbortSignal;
}

/**
 * Joins two connections until both sides have ended or one breaks. Either may end its half first, and the other goes on; bytes are read as fast
 * as the slower side takes them. Resolves when it is over.
 */
export async function joinRaw({ client, clientHead, guest, guestHead, idleTimeoutMs, cut }: RawTunnelOptions): Promise<void> {
  await new Promise<void>((resolve) => {
    const breakOff = () => {
      abort(client);
      guest.destroy();
    };
    const idle = setTimeout(breakOff, idleTimeoutMs);
    cut.addEventListener("abort", breakOff, { once: true });
    let open = 2;
    for (const side of [client, guest]) {
      side.allowHalfOpen = true;
      side.on("error", breakOff);
      side.on("data", () => idle.refresh());
      side.once("close", () => {
        // Closed without having ended: what came through is not all there was.
        if (!side.readableEnded || !side.writableFinished) breakOff();
        open -= 1;
        if (open > 0) return;
        clearTimeout(idle);
        cut.removeEventListener("abort", breakOff);
        resolve();
      });
    }
    if (clientHead.length > 0) guest.write(clientHead);
    if (guestHead.length > 0) client.write(guestHead);
    client.pipe(guest);
    guest.pipe(client);
    if (cut.aborted || client.destroyed || guest.destroyed) breakOff();
  });
}

/** Closes a connection so that its end cannot be taken for the end of what was sent. */
function abort(stream: Duplex & Partial<Pick<Socket, "resetAndDestroy">>): void {
  if (stream.resetAndDestroy !== undefined && !stream.destroyed) stream.resetAndDestroy();
  else stream.destroy();
}
