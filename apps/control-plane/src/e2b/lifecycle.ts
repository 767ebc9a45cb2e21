import type { FastifyInstance } from "fastify";

import type { Services } from "../http/services.ts";
import type { ForkedChild } from "../sandboxes/forks.ts";
import { e2bErrorBody } from "./errors.ts";
import { addE2bRoute } from "./route.ts";
import { connectSchema, connectV2Schema, forkSchema, pauseSchema, refreshSchema, resumeSchema, setTimeoutSchema } from "./schemas.ts";
import { viewSandbox } from "./views.ts";

/** Sandboxes: connected to, given time, paused, resumed, forked. */
export function addE2bLifecycleRoutes(app: FastifyInstance, { sandboxes, domain }: Services): void {
  const { connects } = sandboxes;
  for (const [id, body] of [
    ["connectSandbox", connectSchema],
    ["connectSandboxV2", connectV2Schema],
  ] as const) {
    addE2bRoute(app, id, { body }, async ({ sandbox, body: { timeout, memory }, reply }) => {
      const { row, isResumed } = await connects.connect(sandbox, { sec: timeout, memory: memory ?? true });
      if (isResumed) void reply.code(201);
      return viewSandbox(row, domain);
    });
  }
  addE2bRoute(app, "resumeSandbox", { body: resumeSchema }, async ({ sandbox, body: { timeout, memory, autoPause } }) => {
    const action = autoPause === undefined ? {} : { action: autoPause ? ("pause" as const) : ("delete" as const) };
    return viewSandbox(await connects.resume(sandbox, { sec: timeout, memory: memory ?? true, ...action }), domain);
  });
  addE2bRoute(app, "pauseSandbox", { body: pauseSchema }, async ({ sandbox, body }) => {
    await sandboxes.pauseRunning(sandbox, { memory: body.memory ?? true });
  });
  addE2bRoute(app, "setSandboxTimeout", { body: setTimeoutSchema }, async ({ sandbox, body }) => {
    await connects.setExpiry(sandbox, body.timeout);
  });
  addE2bRoute(app, "refreshSandbox", { body: refreshSchema }, async ({ sandbox, body }) => {
    await connects.refresh(sandbox, body.duration);
  });
  addE2bRoute(app, "forkSandbox", { body: forkSchema }, async ({ sandbox, body, signal }) => {
    await connects.present(sandbox);
    const children = await sandboxes.fork(sandbox, { count: body.count }, signal, { expirySec: body.timeout });
    return children.map((child) => viewChild(child, domain));
  });
}

function viewChild(child: ForkedChild, domain: string | null) {
  return "row" in child ? { sandbox: viewSandbox(child.row, domain) } : { error: e2bErrorBody(child.error) };
}
