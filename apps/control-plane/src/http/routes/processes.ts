import type { FastifyInstance } from "fastify";

import { execBackground, execForeground } from "../../guest/exec.ts";
import { listProcesses, signalProcess } from "../../guest/process-control.ts";
import { parseSelector } from "../../guest/process-selector.ts";
import type { Caller } from "../../accounts/caller.ts";
import { ownedBy } from "../../db/owned-id.ts";
import { whileCallerMay } from "../caller-watch.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

export function addProcessRoutes(app: FastifyInstance, services: Services): void {
  const { sandboxes, guests, log } = services;
  const guestOf = async (caller: Caller, id: string) => guests.of(await sandboxes.getUsable(ownedBy(caller.teamId, id)));

  addRoute(app, "exec", 200, async ({ caller, params, body, signal, request, reply }) => {
    const guest = await guestOf(caller, params.id);
    const execLog = log.child({ sandboxId: params.id, requestId: reply.request.id });
    if (!body.background) {
      return whileCallerMay(services, { request, caller }, signal, async (allowed) => execForeground(guest, body, allowed, execLog));
    }
    void reply.code(202);
    return execBackground(guest, body, execLog);
  });
  addRoute(app, "listProcesses", 200, async ({ caller, params, signal }) => ({
    processes: await listProcesses(await guestOf(caller, params.id), signal),
  }));
  addRoute(app, "signalProcess", 204, async ({ caller, params, query }) => {
    await signalProcess(await guestOf(caller, params.id), parseSelector(params.selector), query.signal);
  });
}
