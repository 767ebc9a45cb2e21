import type { FastifyInstance } from "fastify";

import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

/** Where the caller's team has events sent. */
export function addChannelRoutes(app: FastifyInstance, { channels, deliveries }: Services): void {
  addRoute(app, "createChannel", 201, async ({ caller, body }) => channels.create(caller, body));
  addRoute(app, "listChannels", 200, async ({ caller }) => ({ channels: await channels.list(caller.teamId) }));
  addRoute(app, "getChannel", 200, async ({ caller, params }) => channels.get(caller.teamId, params.channel));
  addRoute(app, "updateChannel", 200, async ({ caller, params, body }) => channels.update(caller, params.channel, body));
  addRoute(app, "deleteChannel", 204, async ({ caller, params }) => channels.delete(caller, params.channel));
  addRoute(app, "testChannel", 200, async ({ caller, params, signal }) => channels.test(caller, params.channel, signal));
  addRoute(app, "rotateChannelSecret", 200, async ({ caller, params }) => channels.rotate(caller, params.channel));
  addRoute(app, "listDeliveries", 200, async ({ caller, params, query }) => deliveries.list(caller.teamId, params.channel, query));
  addRoute(app, "retryDelivery", 200, async ({ caller, params }) => deliveries.retry(caller.teamId, params.channel, params.delivery));
}
