import type { Snapshot } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import type { Services } from "../http/services.ts";
import { fullName, namesOf, newSnapshotName, templateNamed } from "./names.ts";
import { pageOf, setNextToken } from "./paging.ts";
import { addE2bRoute } from "./route.ts";
import { listSnapshotsQuerySchema, newSnapshotSchema } from "./schemas.ts";

/** Snapshots. */
export function addE2bSnapshotRoutes(app: FastifyInstance, { sandboxes, snapshots }: Services): void {
  addE2bRoute(app, "createSnapshot", { body: newSnapshotSchema }, async ({ sandboxId, body }) => {
    await sandboxes.connects.present(sandboxId);
    const name = newSnapshotName(body.name);
    return viewSnapshot(await snapshots.create({ sandbox_id: sandboxId, name, memory: true }, { replace: true }));
  });
  addE2bRoute(app, "listSnapshots", { query: listSnapshotsQuerySchema }, async ({ query, reply }) => {
    const found = (await snapshots.list()).filter(
      (snapshot) =>
        (query.sandboxID === undefined || snapshot.source_sandbox_id === query.sandboxID) &&
        (query.name === undefined || isNamed(snapshot.name, query.name)),
    );
    const page = pageOf(found, (snapshot) => ({ time: new Date(snapshot.created_at), key: snapshot.name }), query);
    setNextToken(reply, page.next);
    return page.items.map(viewSnapshot);
  });
}

/** A filter without a tag means all tags of the name. */
function isNamed(template: string, filter: string): boolean {
  const wanted = templateNamed(filter);
  return template === wanted || (!filter.includes(":") && template.split(":", 1)[0] === wanted);
}

function viewSnapshot(snapshot: Snapshot) {
  return { snapshotID: fullName(snapshot.name), names: namesOf(snapshot.name) };
}
