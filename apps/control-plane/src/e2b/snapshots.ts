import { PlatformError, type Snapshot } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import type { Services } from "../http/services.ts";
import { fullName, namesOf, newSnapshotName, templateNamed } from "./names.ts";
import { pageOf, setNextToken } from "./paging.ts";
import { addE2bRoute } from "./route.ts";
import { listSnapshotsQuerySchema, newSnapshotSchema } from "./schemas.ts";

/** Snapshots. */
export function addE2bSnapshotRoutes(app: FastifyInstance, { sandboxes, snapshots, lookup }: Services): void {
  addE2bRoute(app, "createSnapshot", { body: newSnapshotSchema }, async ({ caller, sandbox, body }) => {
    await sandboxes.connects.present(sandbox);
    const asked = newSnapshotName(body.name);
    const name = await lookup.ownName(caller.teamId, asked);
    if (name === undefined) {
      throw new PlatformError("request_invalid", `name: "${asked}" is not accepted: snapshots are made in the namespace of one's own team`);
    }
    return viewSnapshot(await snapshots.create(caller, { sandbox_id: sandbox.id, name, memory: true }, { replace: true }));
  });
  addE2bRoute(app, "listSnapshots", { query: listSnapshotsQuerySchema }, async ({ caller, query, reply }) => {
    const wanted = templateNamed(query.name ?? "");
    const name = wanted === undefined ? undefined : await lookup.ownName(caller.teamId, wanted);
    const hasTag = query.name?.includes(":") === true;
    const found = (await snapshots.list(caller.teamId)).filter(
      (snapshot) =>
        (query.sandboxID === undefined || snapshot.source_sandbox_id === query.sandboxID) &&
        (query.name === undefined || isNamed(snapshot.name, name, hasTag)),
    );
    const page = pageOf(found, (snapshot) => ({ time: new Date(snapshot.created_at), key: snapshot.name }), query);
    setNextToken(reply, page.next);
    return page.items.map(viewSnapshot);
  });
}

/** A filter without a tag means all tags of the name. */
function isNamed(template: string, wanted: string | undefined, hasTag: boolean): boolean {
  return template === wanted || (!hasTag && template.split(":", 1)[0] === wanted);
}

function viewSnapshot(snapshot: Snapshot) {
  return { snapshotID: fullName(snapshot.name), names: namesOf(snapshot.name) };
}
