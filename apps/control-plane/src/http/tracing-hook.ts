import { endSpan, isTracing, openSpan, withinSpan, type OpenSpan } from "@roost/kit/tracing";
import type { FastifyInstance, FastifyRequest } from "fastify";

/** Each request is a span, part of the caller's trace where it sends one. Adds nothing at all when nobody collects traces. */
export function addTracing(app: FastifyInstance): void {
  if (!isTracing()) return;
  const spans = new WeakMap<FastifyRequest, OpenSpan>();
  app.addHook("onRequest", async (request, reply) => {
    const { config, url = "unknown" } = request.routeOptions;
    const open = openSpan(`${request.method} ${url}`, {
      kind: "server",
      attributes: {
        "http.request.method": request.method,
        "http.route": url,
        "roost.endpoint": config.operationId ?? "unknown",
        "roost.request_id": request.id,
      },
      from: headerOf(request.headers),
    });
    if (open === undefined) return;
    spans.set(request, open);
    // Also when the caller is gone before its answer
    reply.raw.once("close", () => {
      const { statusCode } = reply;
      open.span.setAttribute("http.response.status_code", statusCode);
      endSpan(open, statusCode >= 500 ? { code: statusCode } : undefined);
    });
  });
  app.addHook("onRoute", (route) => {
    const { handler } = route;
    // What comes off the socket (the body) knows nothing of the request's context, so this is where it begins
    route.handler = function traced(request, reply) {
      return withinSpan(spans.get(request), () => handler.call(this, request, reply));
    };
  });
}

/** A header as it came; of one that came twice, neither is believed. */
export function headerOf(headers: Readonly<Record<string, string | string[] | undefined>>): (name: string) => string | undefined {
  return (name) => {
    const value = headers[name];
    return typeof value === "string" ? value : undefined;
  };
}
