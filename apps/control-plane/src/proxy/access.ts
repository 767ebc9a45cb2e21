import type { IncomingHttpHeaders } from "node:http";

import { e2bTrafficTokenHeader, guestAgentPort, trafficTokenHeader } from "@roost/contract";

import type { SandboxRow } from "../db/sandboxes.ts";
import { accessOfPort } from "../sandboxes/port-access.ts";
import { isPublicGuestAgentPath } from "./guest-agent-paths.ts";
import { cookieGrants } from "./port-grant.ts";
import type { PortKeys } from "./port-keys.ts";
import { refusal, type Refusal } from "./refusals.ts";
import { sameText } from "./same-text.ts";

/** A request as far as it says where it goes, and by which right. */
export interface AskedPort {
  readonly port: number;
  /** As the guest would get it */
  readonly target: string;
  readonly headers: IncomingHttpHeaders;
  /** From the URL; those of cookies are in the headers. Neither counts unless the host name says the port: only then are they the port's alone */
  readonly grant: string | undefined;
  readonly isByHost: boolean;
  readonly isTls: boolean;
}

/**
 * Why a request may not reach a port of a sandbox; undefined when it may. The guest agent checks its token itself, so of it only what is between
 * it and its host is closed. Other ports are servers that know nothing of tokens: closed unless they are public, or the caller has the traffic token, or a grant for that port.
 */
export function whyNoAccess(sandbox: SandboxRow, asked: AskedPort, keys: PortKeys, now: Date): Refusal | undefined {
  const { port, headers, grant } = asked;
  const about = { sandboxId: sandbox.id };
  if (port === guestAgentPort) {
    return isPublicGuestAgentPath(asked.target) ? undefined : refusal(404, "there is no such endpoint", about);
  }
  if (accessOfPort(sandbox, port) === "public") return undefined;
  const tokens = [headers[trafficTokenHeader], headers[e2bTrafficTokenHeader]].filter((token) => token !== undefined);
  if (tokens.length > 0) {
    const isRight = tokens.some((token) => isTrafficToken(sandbox, token));
    return isRight ? undefined : refusal(403, "The traffic access token is wrong", about);
  }
  if (!asked.isByHost) return refusal(403, needsToken, about);
  const check = (given: string) => keys.check(given, { sandboxId: sandbox.id, port, keyNumber: sandbox.port_key_number }, now);
  if (grant !== undefined) {
    const result = check(grant);
    if (result === "good") return undefined;
    return refusal(403, result === "expired" ? "This URL has expired: ask for another one" : "This URL is not signed for this port", about);
  }
  const cookies = new Set(cookieGrants(headers, sandbox.id, asked.isTls).map(check));
  if (cookies.has("good")) return undefined;
  if (cookies.has("expired")) return refusal(403, "The signed URL that opened this port has expired: ask for another one", about);
  return refusal(403, needsToken, about);
}

const needsToken = `The ports of this sandbox are not public: send its traffic access token in the header ${e2bTrafficTokenHeader}, or open a signed URL`;

function isTrafficToken({ traffic_token: secret }: SandboxRow, given: string | string[]): boolean {
  return secret !== null && typeof given === "string" && sameText(given, secret);
}
