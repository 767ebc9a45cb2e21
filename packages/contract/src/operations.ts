import type { z } from "zod";

import type { ErrorCode } from "./errors.ts";
import { eventListSchema, listEventsQuerySchema } from "./events.ts";
import {
  attachQuerySchema,
  execBodySchema,
  execResultSchema,
  execStartedSchema,
  execStreamClientSchema,
  execStreamServerSchema,
  fileEntryAnswerSchema,
  fileListSchema,
  listFilesBodySchema,
  moveFileBodySchema,
  pathBodySchema,
  pathQuerySchema,
  processListSchema,
  ptyClientSchema,
  ptyServerSchema,
  signalQuerySchema,
  watchQuerySchema,
  watchServerSchema,
} from "./guest-use.ts";
import {
  createSandboxBodySchema,
  hostListSchema,
  listSandboxesQuerySchema,
  logsQuerySchema,
  metricsQuerySchema,
  metricsSchema,
  sandboxListSchema,
  sandboxSchema,
  setTimeoutBodySchema,
  templateListSchema,
} from "./sandboxes.ts";
import {
  checkpointSchema,
  createSnapshotBodySchema,
  forkSandboxBodySchema,
  forkSchema,
  generationListSchema,
  pauseSandboxBodySchema,
  resumeSandboxBodySchema,
  rollbackSandboxBodySchema,
  snapshotListSchema,
  snapshotSchema,
} from "./snapshots.ts";

export interface Operation {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  /** OpenAPI form: `{id}` stands for a parameter. */
  readonly path: string;
  readonly summary: string;
  readonly query?: z.ZodObject;
  /** A schema for JSON, `stream` for raw bytes. */
  readonly body?: z.ZodObject | "stream";
  /** Status → JSON schema, `stream` for raw bytes, `empty` for none. */
  readonly answers: Readonly<Record<number, z.ZodType | "stream" | "empty">>;
  /** Beyond those every operation may give: request_invalid, api_key_invalid, internal. */
  readonly errors: readonly ErrorCode[];
  /** Messages of a WebSocket; its requests are upgrades. */
  readonly webSocket?: { readonly client?: z.ZodType; readonly server: z.ZodType };
}

const ofSandbox = ["sandbox_not_found", "host_unreachable"] as const satisfies readonly ErrorCode[];
const ofChange = [
  ...ofSandbox,
  "sandbox_wrong_state",
  "sandbox_busy",
  "host_disk_full",
  "shutting_down",
] as const satisfies readonly ErrorCode[];
/** Starting from what was saved */
const ofImage = [
  "image_damaged",
  "image_incompatible",
  "capacity_exhausted",
  "sandbox_resume_failed",
] as const satisfies readonly ErrorCode[];
/** A paused sandbox may be resumed by the request */
const ofGuest = [
  ...ofSandbox,
  ...ofImage,
  "sandbox_wrong_state",
  "sandbox_busy",
  "guest_unreachable",
  "guest_error",
  "user_unknown",
] as const satisfies readonly ErrorCode[];

/** The native API. Routes, OpenAPI, SDK and tests that ask something of all operations come from this table. */
export const operations = {
  createSandbox: {
    method: "POST",
    path: "/v1/sandboxes",
    summary: "Create a sandbox; answers when its first command can run",
    body: createSandboxBodySchema,
    answers: { 201: sandboxSchema },
    errors: [
      "template_not_found",
      "template_size_fixed",
      "image_damaged",
      "image_incompatible",
      "capacity_exhausted",
      "sandbox_start_failed",
      "create_aborted",
      "host_disk_full",
      "host_unreachable",
      "shutting_down",
    ],
  },
  listSandboxes: {
    method: "GET",
    path: "/v1/sandboxes",
    summary: "List sandboxes, newest first",
    query: listSandboxesQuerySchema,
    answers: { 200: sandboxListSchema },
    errors: [],
  },
  getSandbox: {
    method: "GET",
    path: "/v1/sandboxes/{id}",
    summary: "One sandbox",
    answers: { 200: sandboxSchema },
    errors: ["sandbox_not_found"],
  },
  deleteSandbox: {
    method: "DELETE",
    path: "/v1/sandboxes/{id}",
    summary: "End a sandbox and delete its disk and all generations; a create in flight is aborted",
    answers: { 204: "empty" },
    errors: ofSandbox,
  },
  pauseSandbox: {
    method: "POST",
    path: "/v1/sandboxes/{id}/pause",
    summary: "Save a sandbox with its memory and free what it holds; pausing a paused one succeeds",
    body: pauseSandboxBodySchema,
    answers: { 200: sandboxSchema },
    errors: [...ofChange, "sandbox_pause_failed"],
  },
  resumeSandbox: {
    method: "POST",
    path: "/v1/sandboxes/{id}/resume",
    summary: "Start a paused sandbox where it was; resuming a running one succeeds",
    body: resumeSandboxBodySchema,
    answers: { 200: sandboxSchema },
    errors: [...ofChange, ...ofImage],
  },
  checkpointSandbox: {
    method: "POST",
    path: "/v1/sandboxes/{id}/checkpoint",
    summary: "A new generation of a running sandbox, which goes on",
    answers: { 201: checkpointSchema },
    errors: [...ofChange, "snapshot_failed"],
  },
  rollbackSandbox: {
    method: "POST",
    path: "/v1/sandboxes/{id}/rollback",
    summary: "Back to a kept generation; what happened since is gone",
    body: rollbackSandboxBodySchema,
    answers: { 200: sandboxSchema },
    errors: [...ofChange, ...ofImage, "generation_not_found"],
  },
  listGenerations: {
    method: "GET",
    path: "/v1/sandboxes/{id}/generations",
    summary: "Generations of a sandbox that are kept, newest first",
    answers: { 200: generationListSchema },
    errors: [...ofSandbox, "sandbox_wrong_state"],
  },
  forkSandbox: {
    method: "POST",
    path: "/v1/sandboxes/{id}/fork",
    summary: "New sandboxes that go on where this one is; each succeeds or fails by itself",
    body: forkSandboxBodySchema,
    answers: { 201: forkSchema },
    errors: [...ofChange, "fork_failed", "image_damaged", "image_incompatible", "capacity_exhausted"],
  },
  pingSandbox: {
    method: "POST",
    path: "/v1/sandboxes/{id}/ping",
    summary: "Count as activity",
    answers: { 204: "empty" },
    errors: [...ofSandbox, "sandbox_wrong_state"],
  },
  setSandboxTimeout: {
    method: "POST",
    path: "/v1/sandboxes/{id}/timeout",
    summary: "Change the inactivity timeout; it counts from now",
    body: setTimeoutBodySchema,
    answers: { 200: sandboxSchema },
    errors: [...ofSandbox, "sandbox_wrong_state"],
  },
  getSandboxMetrics: {
    method: "GET",
    path: "/v1/sandboxes/{id}/metrics",
    summary: "CPU, memory and disk over time",
    query: metricsQuerySchema,
    answers: { 200: metricsSchema },
    errors: [...ofSandbox, "sandbox_wrong_state"],
  },
  getSandboxLogs: {
    method: "GET",
    path: "/v1/sandboxes/{id}/logs",
    summary: "The guest's console, as text",
    query: logsQuerySchema,
    answers: { 200: "stream" },
    errors: ofSandbox,
  },
  exec: {
    method: "POST",
    path: "/v1/sandboxes/{id}/exec",
    summary: "Run a command to its end, or start one in the background",
    body: execBodySchema,
    answers: { 200: execResultSchema, 202: execStartedSchema },
    errors: [...ofGuest, "exec_timeout", "output_too_large", "tag_taken", "path_invalid"],
  },
  execStream: {
    method: "GET",
    path: "/v1/sandboxes/{id}/exec/stream",
    summary: "Run a command; its output comes as it is written",
    answers: {},
    errors: ofSandbox,
    webSocket: { client: execStreamClientSchema, server: execStreamServerSchema },
  },
  pty: {
    method: "GET",
    path: "/v1/sandboxes/{id}/pty",
    summary: "A terminal: start one or connect to a running one",
    answers: {},
    errors: ofSandbox,
    webSocket: { client: ptyClientSchema, server: ptyServerSchema },
  },
  listProcesses: {
    method: "GET",
    path: "/v1/sandboxes/{id}/processes",
    summary: "Processes started through the API",
    answers: { 200: processListSchema },
    errors: ofGuest,
  },
  signalProcess: {
    method: "DELETE",
    path: "/v1/sandboxes/{id}/processes/{selector}",
    summary: "Signal a process group by pid or tag",
    query: signalQuerySchema,
    answers: { 204: "empty" },
    errors: [...ofGuest, "process_not_found"],
  },
  attachProcess: {
    method: "GET",
    path: "/v1/sandboxes/{id}/processes/{selector}/stream",
    summary: "Output of a running process from now on",
    query: attachQuerySchema,
    answers: {},
    errors: ofSandbox,
    webSocket: { server: execStreamServerSchema },
  },
  readFile: {
    method: "GET",
    path: "/v1/sandboxes/{id}/files",
    summary: "A file's bytes; Range is honoured",
    query: pathQuerySchema,
    answers: { 200: "stream", 206: "stream" },
    errors: [...ofGuest, "file_not_found", "path_invalid", "range_not_satisfiable"],
  },
  writeFile: {
    method: "PUT",
    path: "/v1/sandboxes/{id}/files",
    summary: "Create or replace a file with the request's body, as a whole; parent folders are made",
    query: pathQuerySchema,
    body: "stream",
    answers: { 200: fileEntryAnswerSchema },
    errors: [...ofGuest, "path_invalid", "request_too_large", "guest_disk_full"],
  },
  listFiles: {
    method: "POST",
    path: "/v1/sandboxes/{id}/files/list",
    summary: "Entries of a folder",
    body: listFilesBodySchema,
    answers: { 200: fileListSchema },
    errors: [...ofGuest, "file_not_found", "path_invalid"],
  },
  statFile: {
    method: "POST",
    path: "/v1/sandboxes/{id}/files/stat",
    summary: "One entry",
    body: pathBodySchema,
    answers: { 200: fileEntryAnswerSchema },
    errors: [...ofGuest, "file_not_found", "path_invalid"],
  },
  makeFolder: {
    method: "POST",
    path: "/v1/sandboxes/{id}/files/mkdir",
    summary: "Make a folder and its parents",
    body: pathBodySchema,
    answers: { 201: fileEntryAnswerSchema },
    errors: [...ofGuest, "file_exists", "path_invalid", "guest_disk_full"],
  },
  moveFile: {
    method: "POST",
    path: "/v1/sandboxes/{id}/files/move",
    summary: "Rename a file or folder; parents of the destination are made",
    body: moveFileBodySchema,
    answers: { 200: fileEntryAnswerSchema },
    errors: [...ofGuest, "file_not_found", "path_invalid"],
  },
  removeFile: {
    method: "POST",
    path: "/v1/sandboxes/{id}/files/remove",
    summary: "Remove a file or a whole folder; a missing one is fine",
    body: pathBodySchema,
    answers: { 204: "empty" },
    errors: [...ofGuest, "path_invalid"],
  },
  watchFiles: {
    method: "GET",
    path: "/v1/sandboxes/{id}/files/watch",
    summary: "Changes in a folder as they happen",
    query: watchQuerySchema,
    answers: {},
    errors: ofSandbox,
    webSocket: { server: watchServerSchema },
  },
  createSnapshot: {
    method: "POST",
    path: "/v1/snapshots",
    summary: "A template from a sandbox, which goes on when it runs and stays paused when it is",
    body: createSnapshotBodySchema,
    answers: { 201: snapshotSchema },
    errors: [...ofChange, "snapshot_exists", "snapshot_failed", "image_damaged"],
  },
  listSnapshots: {
    method: "GET",
    path: "/v1/snapshots",
    summary: "Snapshots, by name",
    answers: { 200: snapshotListSchema },
    errors: ["host_unreachable"],
  },
  getSnapshot: {
    method: "GET",
    path: "/v1/snapshots/{name}",
    summary: "One snapshot",
    answers: { 200: snapshotSchema },
    errors: ["snapshot_not_found", "host_unreachable"],
  },
  deleteSnapshot: {
    method: "DELETE",
    path: "/v1/snapshots/{name}",
    summary: "Delete a snapshot; refused while sandboxes of it exist",
    answers: { 204: "empty" },
    errors: ["snapshot_not_found", "snapshot_in_use", "host_unreachable"],
  },
  listEvents: {
    method: "GET",
    path: "/v1/events",
    summary: "What happened, newest first",
    query: listEventsQuerySchema,
    answers: { 200: eventListSchema },
    errors: [],
  },
  listTemplates: {
    method: "GET",
    path: "/v1/templates",
    summary: "What sandboxes can start from",
    answers: { 200: templateListSchema },
    errors: [],
  },
  listHosts: {
    method: "GET",
    path: "/v1/hosts",
    summary: "Hosts, their versions, accelerator and capacity",
    answers: { 200: hostListSchema },
    errors: [],
  },
} as const satisfies Record<string, Operation>;

export type OperationId = keyof typeof operations;
