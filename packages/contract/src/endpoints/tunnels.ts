import { tunnelClientSchema, tunnelServerSchema } from "../tunnels.ts";
import type { Endpoint } from "./endpoint.ts";
import { ofGuest } from "./usual-errors.ts";

export const tunnelEndpoints = {
  openTunnel: {
    method: "GET",
    path: "/v1/sandboxes/{id}/ports/{port}/tunnel",
    access: "sandboxes:write",
    summary: "A TCP connection to a port of a sandbox; also to what listens on its loopback address only",
    answers: {},
    errors: ofGuest,
    webSocket: { client: tunnelClientSchema, server: tunnelServerSchema },
  },
} as const satisfies Record<string, Endpoint>;
