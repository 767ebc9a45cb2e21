import { accessTokenHeader, guestInitSchema, jsonBodyBytesMax, type GuestInit } from "@roost/contract";
import type { Logger } from "@roost/kit";
import type { IncomingMessage, ServerResponse } from "node:http";

import { readJson } from "../http/json-body.ts";
import { HttpError } from "../http/http-error.ts";
import type { GuestMachine } from "./guest-machine.ts";
import type { InitState } from "./init-state.ts";

/** The clock is left alone when it differs by no more than this in `ms`: the way here takes about as long. */
const clockToleranceMs = 50;

/** An `/init` may carry more environment than other requests carry body: the kernel's limit for a process, roughly. */
const initBodyBytesMax = 4 * jsonBodyBytesMax;

/** `POST /init`: the host tells the guest who it is. Answers 204 when all of it holds, also over a restart of the agent. */
export async function handleInit(
  request: IncomingMessage,
  response: ServerResponse,
  parts: { readonly state: InitState; readonly machine: GuestMachine; readonly log: Logger },
): Promise<void> {
  const arrived = performance.now();
  const parsed = guestInitSchema.safeParse(await readJson(request, initBodyBytesMax));
  // Who does not know the token learns nothing, not even what is wrong with the body.
  const init: GuestInit = parsed.success ? parsed.data : {};
  if (!parts.state.mayInitialize(request.headers[accessTokenHeader], init)) throw new HttpError(401, "invalid access token");
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new HttpError(400, `${issue?.path.join(".") || "body"}: ${issue?.message ?? "not valid"}`);
  }
  await parts.state.apply(init);
  await becomeSandbox(init, arrived, parts.machine);
  parts.log.info({ sandboxId: init.sandboxId }, "initialized");
  response.writeHead(204).end();
}

async function becomeSandbox(init: GuestInit, arrived: number, machine: GuestMachine): Promise<void> {
  // Entropy first: whatever draws random numbers from now on must not repeat those of another fork.
  if (init.entropy !== undefined && init.entropy !== "") await machine.addEntropy(Buffer.from(init.entropy, "base64"));
  if (init.timestamp !== undefined) {
    const now = Date.parse(init.timestamp) + (performance.now() - arrived);
    if (Math.abs(now - Date.now()) > clockToleranceMs) await machine.setClock(now);
  }
  if (init.machineId !== undefined) await machine.setMachineId(init.machineId);
  if (init.hostname !== undefined) await machine.setHostname(init.hostname);
}
