import { accessTokenHeader, guestClockHeader, jsonBodyBytesMax, type GuestInit } from "@roost/contract";
import type { Logger } from "@roost/kit";
import type { IncomingMessage, ServerResponse } from "node:http";

import { readJson } from "../http/json-body.ts";
import type { ProcessLog } from "../logs/process-log.ts";
import { sandboxVariables } from "../process/environment.ts";
import { HttpError } from "../http/http-error.ts";
import type { GuestMachine } from "./guest-machine.ts";
import { parseInit } from "./init-request.ts";
import type { InitState } from "./init-state.ts";

/** The clock is left alone when it differs by no more than this in `ms`: the way here takes about as long, in a guest that is warm. */
export const clockToleranceMs = 20;

/** An `/init` may carry more environment than other requests carry body: the kernel's limit for a process, roughly. */
const initBodyBytesMax = 4 * jsonBodyBytesMax;

export interface InitParts {
  readonly state: InitState;
  readonly machine: GuestMachine;
  readonly processLog: ProcessLog;
  readonly log: Logger;
}

/** `POST /init`: the host tells the guest who it is. Answers 204 when all of it holds, also over a restart of the agent. */
export async function handleInit(request: IncomingMessage, response: ServerResponse, parts: InitParts): Promise<void> {
  const arrived = performance.now();
  const parsed = parseInit(await readJson(request, initBodyBytesMax));
  // Who does not know the token learns nothing, not even what is wrong with the body.
  const init: GuestInit = parsed instanceof HttpError ? {} : parsed;
  if (!parts.state.mayInitialize(request.headers[accessTokenHeader], init)) throw new HttpError(401, "invalid access token");
  if (parsed instanceof HttpError) throw parsed;
  tellLog(init, parts);
  parts.state.apply(init);
  const isTrustChanged = trust(init, parts);
  const { hostname, machineId, timestamp } = init;
  const entropy = init.entropy === undefined || init.entropy === "" ? undefined : Buffer.from(init.entropy, "base64");
  const unixMs = timestamp === undefined ? undefined : rightClock(timestamp, performance.now() - arrived, Date.now());
  const variables = entropy === undefined && !isTrustChanged ? undefined : sandboxVariables(parts.state.identity, parts.state.envVars);
  await parts.machine.become({ entropy, unixMs, machineId, hostname, variables });
  parts.log.debug({ sandboxId: init.sandboxId }, "initialized"); // not info: the console of an emulated guest costs 5 ms a line
  response.writeHead(204, { [guestClockHeader]: String(Date.now()) }).end();
}

/**
 * Installs the authority that the sandbox's programs are to trust; one that is told who it is and of no authority has none, also where a memory or a disk is of one that had. Answers whether it
 * did anything. A file that cannot be written (a read-only root) is only logged: such a guest is one that trusts nobody.
 */
function trust({ caBundle, sandboxId }: GuestInit, { state, machine: { trustedAuthority }, log }: InitParts): boolean {
  const certificatePem = caBundle ?? (sandboxId === undefined ? undefined : "");
  if (certificatePem === undefined || (certificatePem === "" && !trustedAuthority.isInstalled && state.identity.trusted === undefined))
    return false;
  try {
    state.setTrusted(trustedAuthority.install(certificatePem));
  } catch (error) {
    log.warn({ err: error }, "the authority of this sandbox could not be put among those that programs trust");
  }
  return true;
}

/** Another sandbox's log begins empty; the same one's goes on, in a new epoch where this is a restore (which brings entropy). */
function tellLog(init: GuestInit, { state, processLog }: { readonly state: InitState; readonly processLog: ProcessLog }): void {
  const epoch = init.timestamp ?? String(Date.now());
  if (init.sandboxId !== undefined && init.sandboxId !== state.identity.sandboxId) processLog.clear(epoch);
  else if (init.entropy !== undefined) processLog.beginEpoch(epoch);
}

/** What a clock that shows `nowMs` must be set to, `elapsedMs` after the host's `timestamp` arrived; undefined when it is right. Unix `ms`. */
export function rightClock(timestamp: string, elapsedMs: number, nowMs: number): number | undefined {
  const right = Date.parse(timestamp) + elapsedMs;
  return Math.abs(right - nowMs) > clockToleranceMs ? right : undefined;
}
