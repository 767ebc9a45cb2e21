import type { ForkResult } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import type { ForkedChild } from "../../sandboxes/creates.ts";
import { viewGeneration, viewSandbox } from "../../sandboxes/sandbox-view.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

/** Saving sandboxes, and starting from what was saved. */
export function addSnapshotRoutes(app: FastifyInstance, { sandboxes, snapshots, events }: Services): void {
  const { lifecycle } = sandboxes;
  addRoute(app, "pauseSandbox", 200, async ({ params, body }) => viewSandbox(await lifecycle.pause(params.id, body)));
  addRoute(app, "resumeSandbox", 200, async ({ params, body }) =>
    viewSandbox(await lifecycle.resume(params.id, { memory: body.memory, timeoutSec: body.timeout_sec })),
  );
  addRoute(app, "checkpointSandbox", 201, async ({ params }) => {
    const { row, generation } = await lifecycle.checkpoint(params.id);
    return { sandbox: viewSandbox(row), generation: viewGeneration(generation) };
  });
  addRoute(app, "rollbackSandbox", 200, async ({ params, body }) => viewSandbox(await lifecycle.rollback(params.id, body.generation)));
  addRoute(app, "listGenerations", 200, async ({ params }) => ({
    sandbox_id: params.id,
    generations: (await lifecycle.generations(params.id)).map(viewGeneration),
  }));
  addRoute(app, "forkSandbox", 201, async ({ params, body, signal }) => ({
    results: (await sandboxes.fork(params.id, body, signal)).map(viewChild),
  }));

  addRoute(app, "createSnapshot", 201, async ({ body }) => snapshots.create(body));
  addRoute(app, "listSnapshots", 200, async () => ({ snapshots: await snapshots.list() }));
  addRoute(app, "getSnapshot", 200, async ({ params }) => snapshots.get(params.name));
  addRoute(app, "deleteSnapshot", 204, async ({ params }) => snapshots.delete(params.name));

  addRoute(app, "listEvents", 200, async ({ query }) => events.list(query));
}

function viewChild(child: ForkedChild): ForkResult {
  return "row" in child ? { sandbox: viewSandbox(child.row) } : child.error.toBody();
}
