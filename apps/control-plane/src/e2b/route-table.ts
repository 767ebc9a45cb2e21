import type { Access } from "@roost/contract";

/**
 * Every route of E2B's control-plane API: registration, the answers to wrong methods, and the table in docs/e2b.md are made from this.
 * What happens inside a sandbox (commands, files, terminals) is the guest agent's API, which the proxy passes on; it is not listed here.
 */
export interface E2bRoute {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** OpenAPI form, with E2B's own names of parameters */
  readonly path: string;
  readonly access: Exclude<Access, "open" | "session">;
  /** Who needs it: E2B's SDKs, its CLI, neither, only old clients */
  readonly mark: "SDK" | "CLI" | "optional" | "legacy";
  readonly summary: string;
  /** Of a good answer */
  readonly answer: 200 | 201 | 202 | 204;
  /** Why it is answered with 501; absent: it works */
  readonly refused?: string;
}

const noOldBuilds = "this is how clients built templates before E2B's Template builder; newer ones use POST /v3/templates";
const noVolumes = "there are no volumes yet; what must outlive a sandbox goes into a snapshot";
const noSecrets = "requests of sandboxes are not rewritten on their way out, so there is nothing that would use a secret";
const noTeamMetrics = "what a team has, had and used is at GET /v1/stats and GET /v1/usage";

export const e2bRoutes = {
  createSandbox: { method: "POST", path: "/sandboxes", access: "sandboxes:write", mark: "SDK", answer: 201, summary: "Create a sandbox" },
  createSandboxV2: {
    method: "POST",
    path: "/v2/sandboxes",
    access: "sandboxes:write",
    mark: "SDK",
    answer: 201,
    summary: "Create a sandbox, always `secure`",
  },
  listSandboxes: { method: "GET", path: "/sandboxes", access: "sandboxes:read", mark: "legacy", answer: 200, summary: "Running sandboxes" },
  listSandboxesV2: {
    method: "GET",
    path: "/v2/sandboxes",
    access: "sandboxes:read",
    mark: "SDK",
    answer: 200,
    summary: "Sandboxes, with filters, in pages",
  },
  getSandbox: { method: "GET", path: "/sandboxes/{sandboxID}", access: "sandboxes:read", mark: "SDK", answer: 200, summary: "One sandbox" },
  killSandbox: {
    method: "DELETE",
    path: "/sandboxes/{sandboxID}",
    access: "sandboxes:write",
    mark: "SDK",
    answer: 204,
    summary: "Kill a sandbox, also a paused one",
  },
  connectSandbox: {
    method: "POST",
    path: "/sandboxes/{sandboxID}/connect",
    access: "sandboxes:write",
    mark: "SDK",
    answer: 200,
    summary: "Extend a running sandbox (200), resume a paused one (201)",
  },
  connectSandboxV2: {
    method: "POST",
    path: "/v2/sandboxes/{sandboxID}/connect",
    access: "sandboxes:write",
    mark: "SDK",
    answer: 200,
    summary: "The same, with an optional body",
  },
  resumeSandbox: {
    method: "POST",
    path: "/sandboxes/{sandboxID}/resume",
    access: "sandboxes:write",
    mark: "legacy",
    answer: 201,
    summary: "Resume a paused sandbox; 409 when it runs",
  },
  pauseSandbox: {
    method: "POST",
    path: "/sandboxes/{sandboxID}/pause",
    access: "sandboxes:write",
    mark: "SDK",
    answer: 204,
    summary: "Pause, with or without memory",
  },
  setSandboxTimeout: {
    method: "POST",
    path: "/sandboxes/{sandboxID}/timeout",
    access: "sandboxes:write",
    mark: "SDK",
    answer: 204,
    summary: "Set the time left; may shorten it",
  },
  refreshSandbox: {
    method: "POST",
    path: "/sandboxes/{sandboxID}/refreshes",
    access: "sandboxes:write",
    mark: "optional",
    answer: 204,
    summary: "Extend the time left; never shortens it",
  },
  forkSandbox: {
    method: "POST",
    path: "/sandboxes/{sandboxID}/fork",
    access: "sandboxes:write",
    mark: "SDK",
    answer: 201,
    summary: "New sandboxes that go on where this one is",
  },
  setSandboxNetwork: {
    method: "PUT",
    path: "/sandboxes/{sandboxID}/network",
    access: "sandboxes:write",
    mark: "SDK",
    answer: 204,
    summary: "Replace what the sandbox may reach",
  },
  getSandboxMetrics: {
    method: "GET",
    path: "/sandboxes/{sandboxID}/metrics",
    access: "sandboxes:read",
    mark: "SDK",
    answer: 200,
    summary: "Metrics over time",
  },
  getSandboxesMetrics: {
    method: "GET",
    path: "/sandboxes/metrics",
    access: "sandboxes:read",
    mark: "optional",
    answer: 200,
    summary: "Newest metrics of several sandboxes",
  },
  getSandboxLogs: {
    method: "GET",
    path: "/sandboxes/{sandboxID}/logs",
    access: "sandboxes:read",
    mark: "CLI",
    answer: 200,
    summary: "Logs from an instant on",
  },
  getSandboxLogsV2: {
    method: "GET",
    path: "/v2/sandboxes/{sandboxID}/logs",
    access: "sandboxes:read",
    mark: "optional",
    answer: 200,
    summary: "Logs by cursor, direction, level and text",
  },
  createSnapshot: {
    method: "POST",
    path: "/sandboxes/{sandboxID}/snapshots",
    access: "sandboxes:write",
    mark: "SDK",
    answer: 201,
    summary: "A snapshot; the sandbox goes on",
  },
  listSnapshots: { method: "GET", path: "/snapshots", access: "sandboxes:read", mark: "SDK", answer: 200, summary: "Snapshots, in pages" },
  listTemplates: {
    method: "GET",
    path: "/templates",
    access: "templates:read",
    mark: "CLI",
    answer: 200,
    summary: "Templates, without snapshots",
  },
  listTemplatesV2: {
    method: "GET",
    path: "/v2/templates",
    access: "templates:read",
    mark: "optional",
    answer: 200,
    summary: "Templates, in pages",
  },
  getTemplate: {
    method: "GET",
    path: "/templates/{templateID}",
    access: "templates:read",
    mark: "optional",
    answer: 200,
    summary: "One template or snapshot",
  },
  deleteTemplate: {
    method: "DELETE",
    path: "/templates/{templateID}",
    access: "templates:write",
    mark: "SDK",
    answer: 204,
    summary: "Delete a built template or snapshot",
  },
  findTemplateAlias: {
    method: "GET",
    path: "/templates/aliases/{alias}",
    access: "templates:read",
    mark: "SDK",
    answer: 200,
    summary: "Whether there is a template or snapshot of that name",
  },
  listTeams: { method: "GET", path: "/teams", access: "caller", mark: "CLI", answer: 200, summary: "The team that the key is for" },

  requestBuild: {
    method: "POST",
    path: "/v3/templates",
    access: "templates:write",
    mark: "SDK",
    answer: 202,
    summary: "Request a template build",
  },
  startBuild: {
    method: "POST",
    path: "/v2/templates/{templateID}/builds/{buildID}",
    access: "templates:write",
    mark: "SDK",
    answer: 202,
    summary: "Start a template build",
  },
  getBuildStatus: {
    method: "GET",
    path: "/templates/{templateID}/builds/{buildID}/status",
    access: "templates:read",
    mark: "SDK",
    answer: 200,
    summary: "How a template build goes",
  },
  getBuildLogs: {
    method: "GET",
    path: "/templates/{templateID}/builds/{buildID}/logs",
    access: "templates:read",
    mark: "optional",
    answer: 200,
    summary: "Logs of a template build",
  },
  getBuildUpload: {
    method: "GET",
    path: "/templates/{templateID}/files/{hash}",
    access: "templates:write",
    mark: "SDK",
    answer: 201,
    summary: "Where a build's files go",
  },
  putBuildFiles: {
    method: "PUT",
    path: "/templates/{templateID}/files/{hash}",
    access: "templates:write",
    mark: "SDK",
    answer: 200,
    summary: "Upload of a build's files, to the URL that GET gave: without a key",
  },
  createTemplateV2: {
    method: "POST",
    path: "/v2/templates",
    access: "caller",
    mark: "legacy",
    answer: 202,
    summary: "Request a template build",
    refused: noOldBuilds,
  },
  createTemplate: {
    method: "POST",
    path: "/templates",
    access: "caller",
    mark: "legacy",
    answer: 202,
    summary: "Build from a Dockerfile",
    refused: noOldBuilds,
  },
  rebuildTemplate: {
    method: "POST",
    path: "/templates/{templateID}",
    access: "caller",
    mark: "legacy",
    answer: 202,
    summary: "Build again from a Dockerfile",
    refused: noOldBuilds,
  },
  startBuildV1: {
    method: "POST",
    path: "/templates/{templateID}/builds/{buildID}",
    access: "caller",
    mark: "legacy",
    answer: 202,
    summary: "Start a build from a Dockerfile",
    refused: noOldBuilds,
  },
  updateTemplate: {
    method: "PATCH",
    path: "/templates/{templateID}",
    access: "templates:write",
    mark: "legacy",
    answer: 200,
    summary: "Make a template public or not",
  },
  updateTemplateV2: {
    method: "PATCH",
    path: "/v2/templates/{templateID}",
    access: "templates:write",
    mark: "CLI",
    answer: 200,
    summary: "Make a template public or not",
  },
  listTemplateTags: {
    method: "GET",
    path: "/templates/{templateID}/tags",
    access: "templates:read",
    mark: "SDK",
    answer: 200,
    summary: "Tags of a template",
  },
  assignTemplateTags: {
    method: "POST",
    path: "/templates/tags",
    access: "templates:write",
    mark: "SDK",
    answer: 201,
    summary: "Tag a template",
  },
  removeTemplateTags: {
    method: "DELETE",
    path: "/templates/tags",
    access: "templates:write",
    mark: "SDK",
    answer: 204,
    summary: "Untag a template",
  },
  createVolume: {
    method: "POST",
    path: "/volumes",
    access: "caller",
    mark: "SDK",
    answer: 201,
    summary: "Create a volume",
    refused: noVolumes,
  },
  listVolumes: { method: "GET", path: "/volumes", access: "caller", mark: "SDK", answer: 200, summary: "Volumes", refused: noVolumes },
  getVolume: {
    method: "GET",
    path: "/volumes/{volumeID}",
    access: "caller",
    mark: "SDK",
    answer: 200,
    summary: "One volume",
    refused: noVolumes,
  },
  deleteVolume: {
    method: "DELETE",
    path: "/volumes/{volumeID}",
    access: "caller",
    mark: "SDK",
    answer: 204,
    summary: "Delete a volume",
    refused: noVolumes,
  },
  createSecret: {
    method: "POST",
    path: "/secrets",
    access: "caller",
    mark: "SDK",
    answer: 201,
    summary: "Create a secret",
    refused: noSecrets,
  },
  listSecrets: { method: "GET", path: "/secrets", access: "caller", mark: "SDK", answer: 200, summary: "Secrets", refused: noSecrets },
  getSecret: {
    method: "GET",
    path: "/secrets/{secretID}",
    access: "caller",
    mark: "SDK",
    answer: 200,
    summary: "One secret",
    refused: noSecrets,
  },
  updateSecret: {
    method: "POST",
    path: "/secrets/{secretID}",
    access: "caller",
    mark: "SDK",
    answer: 200,
    summary: "Change a secret",
    refused: noSecrets,
  },
  deleteSecret: {
    method: "DELETE",
    path: "/secrets/{secretID}",
    access: "caller",
    mark: "SDK",
    answer: 204,
    summary: "Delete a secret",
    refused: noSecrets,
  },
  getTeamMetrics: {
    method: "GET",
    path: "/teams/{teamID}/metrics",
    access: "caller",
    mark: "optional",
    answer: 200,
    summary: "Sandboxes of a team over time",
    refused: noTeamMetrics,
  },
  getTeamMetricsMax: {
    method: "GET",
    path: "/teams/{teamID}/metrics/max",
    access: "caller",
    mark: "optional",
    answer: 200,
    summary: "Most sandboxes of a team at once",
    refused: noTeamMetrics,
  },
} as const satisfies Record<string, E2bRoute>;

export type E2bRouteId = keyof typeof e2bRoutes;

const all: readonly E2bRoute[] = Object.values(e2bRoutes);
const firstSegments = new Set(all.map(({ path }) => path.split("/", 2)[1]));

/** Whether a path is of E2B's API, also one that has no route: its errors have E2B's form then. */
export function isE2bPath(pathname: string): boolean {
  return firstSegments.has(pathname.split("/", 2)[1]);
}
