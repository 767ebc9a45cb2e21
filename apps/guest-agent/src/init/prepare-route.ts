import { guestPrepareSchema, jsonBodyBytesMax } from "@roost/contract";
import type { IncomingMessage, ServerResponse } from "node:http";

import { HttpError } from "../http/http-error.ts";
import { readJson } from "../http/json-body.ts";
import type { InitParts } from "./init-route.ts";
import type { WarmUp } from "./warm-up.ts";

/**
 * `POST /prepare`: the host makes the guest ready for an image to be taken of it, or to be waited for. Answers 204 when done.
 * Warm before forgotten before synced, whatever is asked: warming leaves traces of its own, forgetting writes files.
 */
export async function handlePrepare(
  request: IncomingMessage,
  response: ServerResponse,
  parts: Omit<InitParts, "log"> & { readonly warmUp: WarmUp },
): Promise<void> {
  const parsed = guestPrepareSchema.safeParse(await readJson(request, jsonBodyBytesMax));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new HttpError(400, `${issue?.path.join(".") || "body"}: ${issue?.message ?? "not valid"}`);
  }
  const { warmUp, forTemplate, sync } = parsed.data;
  if (warmUp !== undefined) await parts.warmUp.run(warmUp);
  if (forTemplate === true) {
    if (parts.machine.trustedAuthority.isInstalled) parts.machine.trustedAuthority.install("");
    await parts.machine.forget();
    parts.state.forget();
    parts.processLog.clear("template");
  }
  if (sync === true) await parts.machine.sync();
  response.writeHead(204).end();
}
