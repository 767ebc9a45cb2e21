import { z } from "zod";

/**
 * A TCP connection to a port of a sandbox over a WebSocket. Binary messages are bytes of the connection, in both directions; text messages are
 * those below. The server says `start` when the guest has accepted. `end` says that no more bytes come from this side (the other may go on);
 * when both have said it the server closes the socket. A socket that closes in any other way was a connection that broke off.
 */
export const tunnelClientSchema = z.discriminatedUnion("type", [z.strictObject({ type: z.literal("end") })]);
export type TunnelClientMessage = z.input<typeof tunnelClientSchema>;
export const tunnelServerSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("start") }),
  z.object({ type: z.literal("end") }),
  z.object({ type: z.literal("error"), code: z.string(), data: z.string() }),
]);
export type TunnelServerMessage = z.infer<typeof tunnelServerSchema>;

/** Tunnels that one sandbox may have open at once: as many connections as the guest agent forwards to one port of its loopback address */
export const tunnelsPerSandboxMax = 256;
