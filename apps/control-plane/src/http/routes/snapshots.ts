import type { ForkResult } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import { ownedBy } from "../../db/owned-id.ts";
import { viewGeneration } from "../../sandboxes/sandbox-view.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

/** Saving sandboxes, and starting from what was saved. */
export function addSnapshotRoutes(app: FastifyInstance, { sandboxes, snapshots }: Services): void {
  const { lifecycle } = sandboxes;
  addRoute(app, "pauseSandbox", 200, async ({ caller, params, body, operation }) =>
    sandboxes.view(await lifecycle.pause(ownedBy(caller.teamId, params.id), body, operation)),
  );
  addRoute(app, "resumeSandbox", 200, async ({ caller, params, body, operation }) =>
    sandboxes.view(
      await lifecycle.resume(ownedBy(caller.teamId, params.id), { memory: body.memory, timeoutSec: body.timeout_sec }, operation),
    ),
  );
  addRoute(app, "checkpointSandbox", 201, async ({ caller, params, operation }) => {
    const { row, generation } = await lifecycle.checkpoint(ownedBy(caller.teamId, params.id), operation);
    return { sandbox: sandboxes.view(row), generation: viewGeneration(generation) };
  });
  addRoute(app, "rollbackSandbox", 200, async ({ caller, params, body, operation }) =>
    sandboxes.view(await lifecycle.rollback(ownedBy(caller.teamId, params.id), body.generation, operation)),
  );
  addRoute(app, "listGenerations", 200, async ({ caller, params }) => ({
    sandbox_id: params.id,
    generations: (await lifecycle.generations(ownedBy(caller.teamId, params.id))).map(viewGeneration),
  }));
  addRoute(app, "forkSandbox", 201, async ({ caller, params, body, signal, operation }) => ({
    results: (await sandboxes.fork(ownedBy(caller.teamId, params.id), body, signal, undefined, operation)).map((child): ForkResult =>
      "row" in child ? { sandbox: sandboxes.view(child.row) } : child.error.toBody(),
    ),
  }));

  addRoute(app, "createSnapshot", 201, async ({ caller, body, operation }) =>
    sandboxes.operations.run(
      "snapshot.create",
      operation,
      async (running) =>
        snapshots.create(caller, body, {
          replace: false,
          record: async (transaction, id) => running.begin(transaction, { subject: { kind: "sandbox", id: body.sandbox_id }, made: [id] }),
        }),
      (answer) => (operation.key === null ? null : { status: 201, body: answer }),
    ),
  );
  addRoute(app, "listSnapshots", 200, async ({ caller }) => ({ snapshots: await snapshots.list(caller.teamId) }));
  addRoute(app, "getSnapshot", 200, async ({ caller, params }) => snapshots.get(caller.teamId, params.name));
  addRoute(app, "deleteSnapshot", 204, async ({ caller, params }) => snapshots.delete(caller, params.name));
}
