import type { IncomingHttpHeaders } from "node:http";

import { guestAgentPort } from "@roost/contract";

import type { SandboxRow } from "../db/sandboxes.ts";
import { isPublicGuestAgentPath } from "./guest-agent-paths.ts";
import { refusal, type Refusal } from "./refusals.ts";
import { trafficTokenHeader } from "./route.ts";
import { sameText } from "./same-text.ts";

/**
 * Why a request may not reach a port of a sandbox; undefined when it may. The guest agent checks its token itself, so of it only what is between
 * it and its host is closed. Other ports are servers that know nothing of tokens: closed unless the sandbox's network policy
 * opens them, or the caller has the traffic token.
 */
export function whyNoAccess(sandbox: SandboxRow, port: number, target: string, headers: IncomingHttpHeaders): Refusal | undefined {
  if (port === guestAgentPort) {
    return isPublicGuestAgentPath(target) ? undefined : refusal(404, "there is no such endpoint", { sandboxId: sandbox.id });
  }
  if (sandbox.network.is_public === true) return undefined;
  const given = headers[trafficTokenHeader];
  if (given === undefined) {
    return refusal(403, `The ports of this sandbox are not public: send its traffic access token in the header ${trafficTokenHeader}`, {
      sandboxId: sandbox.id,
    });
  }
  const isRight = sandbox.traffic_token !== null && typeof given === "string" && sameText(given, sandbox.traffic_token);
  return isRight ? undefined : refusal(403, "The traffic access token is wrong", { sandboxId: sandbox.id });
}
