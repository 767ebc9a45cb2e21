import { PlatformError } from "@roost/contract";
import type { FastifyInstance, FastifyReply } from "fastify";

import type { Caller } from "../../accounts/caller.ts";
import { authorize } from "../authorization.ts";
import { watchCaller } from "../caller-watch.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

/** What happened, and what happens. */
export function addEventRoutes(app: FastifyInstance, { events, eventStreams, authentication, log }: Services): void {
  addRoute(app, "listEvents", 200, async ({ caller, query }) => events.list(audienceOf(caller), query));

  addRoute(app, "followEvents", 200, async ({ caller, query, request, reply, signal }) => {
    if (request.method === "HEAD") return reply.type(contentType).send("");
    const wish = { audience: audienceOf(caller), sandboxId: query.sandbox_id, kinds: query.kinds };
    const stillMay = async () => {
      const now = await authentication.identify(request.raw, request.id);
      authorize(now, "events:read");
      if (caller.isAdmin && !now.isAdmin) throw new PlatformError("admin_only", "this stream is of what admins of the platform may see");
      if (now.teamId !== caller.teamId) throw new PlatformError("api_key_invalid", "this stream is of another team");
    };
    const revoked = async (ended: AbortSignal) => watchCaller(stillMay, log, ended);
    const after = positionIn(request.headers["last-event-id"]) ?? query.after;
    return eventStreams.serve({ wish, after, revoked }, () => takeOver(reply), signal);
  });
}

const contentType = "text/event-stream; charset=utf-8";

function audienceOf({ teamId, isAdmin }: Caller) {
  return { teamId, isAdmin };
}

function positionIn(header: string | string[] | undefined): number | undefined {
  if (header === undefined || header === "") return undefined;
  const text = String(header);
  if (!/^\d{1,15}$/.test(text)) {
    throw new PlatformError(
      "request_invalid",
      `last-event-id: ${JSON.stringify(text.slice(0, 40))} is not accepted: it is the id of an event of this stream`,
    );
  }
  return Number(text);
}

/** The response, with the head sent that Fastify would have sent. */
function takeOver(reply: FastifyReply) {
  const headers = reply.getHeaders() as Record<string, string>;
  reply.hijack();
  reply.raw.writeHead(200, { ...headers, "content-type": contentType, "x-accel-buffering": "no" });
  return reply.raw;
}
