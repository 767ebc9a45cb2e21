import { createSnapshotBodySchema, snapshotListSchema, snapshotSchema } from "../snapshots.ts";
import type { Endpoint } from "./endpoint.ts";
import { ofChange } from "./usual-errors.ts";

export const snapshotEndpoints = {
  createSnapshot: {
    method: "POST",
    path: "/v1/snapshots",
    access: "sandboxes:write",
    summary: "A template from a sandbox, which goes on when it runs and stays paused when it is",
    operation: "snapshot.create",
    body: createSnapshotBodySchema,
    answers: { 201: snapshotSchema },
    errors: [...ofChange, "snapshot_exists", "snapshot_failed", "image_damaged"],
  },
  listSnapshots: {
    method: "GET",
    path: "/v1/snapshots",
    access: "sandboxes:read",
    summary: "Snapshots, by name",
    answers: { 200: snapshotListSchema },
    errors: ["host_unreachable"],
  },
  getSnapshot: {
    method: "GET",
    path: "/v1/snapshots/{name}",
    access: "sandboxes:read",
    summary: "One snapshot",
    answers: { 200: snapshotSchema },
    errors: ["snapshot_not_found", "host_unreachable"],
  },
  deleteSnapshot: {
    method: "DELETE",
    path: "/v1/snapshots/{name}",
    access: "sandboxes:write",
    summary: "Delete a snapshot; refused while sandboxes of it exist",
    answers: { 204: "empty" },
    errors: ["snapshot_not_found", "snapshot_in_use", "host_unreachable"],
  },
} as const satisfies Record<string, Endpoint>;
