import { sandboxEgressBodySchema, sandboxEgressSchema } from "../network.ts";
import type { Endpoint } from "./endpoint.ts";
import { ofChange } from "./usual-errors.ts";

export const networkEndpoints = {
  getNetwork: {
    method: "GET",
    path: "/v1/sandboxes/{id}/network",
    access: "sandboxes:read",
    summary: "What the guest of a sandbox may reach and use",
    answers: { 200: sandboxEgressSchema },
    errors: ["sandbox_not_found"],
  },
  setNetwork: {
    method: "PUT",
    path: "/v1/sandboxes/{id}/network",
    access: "sandboxes:write",
    summary:
      "Replace what the guest of a sandbox may reach and use; in force when it is answered, and connections that are not allowed any more are cut",
    body: sandboxEgressBodySchema,
    answers: { 200: sandboxEgressSchema },
    errors: [...ofChange, "egress_proxy_invalid"],
  },
} as const satisfies Record<string, Endpoint>;
