import { guestPrepareSchema, jsonBodyBytesMax } from "@roost/contract";
import type { IncomingMessage, ServerResponse } from "node:http";

import { HttpError } from "../http/http-error.ts";
import { readJson } from "../http/json-body.ts";
import type { ProcessLog } from "../logs/process-log.ts";
import type { GuestMachine } from "./guest-machine.ts";
import type { InitState } from "./init-state.ts";
import type { WarmUp } from "./warm-up.ts";

/**
 * `POST /prepare`: the host makes the guest ready for an image to be taken of it, or to be waited for. Answers 204 when done.
 * Warm before forgotten before synced, whatever is asked: warming leaves traces of its own, forgetting writes files.
 */
export async function handlePrepare(
  request: IncomingMessage,
  response: ServerResponse,
  parts: { readonly state: InitState; readonly machine: GuestMachine; readonly processLog: ProcessLog; readonly warmUp: WarmUp },
): Promise<void> {
  const parsed = guestPrepareSchema.safeParse(await readJson(request, jsonBodyBytesMax));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new HttpError(400, `${issue?.path.join(".") || "body"}: ${issue?.message ?? "not valid"}`);
  }
  const { warmUp, forTemplate, sync } = parsed.data;
  if (warmUp !== undefined) await parts.warmUp.run(warmUp);
  if (forTemplate === true) {
    await parts.machine.forget();
    parts.state.forget();
    parts.processLog.clear("template");
  }
  if (sync === true) await parts.machine.sync();
  response.writeHead(204).end();
}
