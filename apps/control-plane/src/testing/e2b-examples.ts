import type { E2bRouteId } from "../e2b/route-table.ts";
import type { Planted } from "./planted.ts";

/** As `EndpointExample`, of a route of E2B's API. Every route that is not refused has to be here. */
export interface E2bExample {
  readonly query?: (of: Planted) => string;
  readonly body?: (of: Planted) => object;
  /** `not found`: another team's is not there for the caller. `own`: the request names nothing of anybody's */
  readonly elsewhere: "not found" | "own";
}

const found = { elsewhere: "not found" } as const;
const own = { elsewhere: "own" } as const;
const network = { allowOut: [], denyOut: [] };

export const e2bExamples = {
  createSandbox: { body: ({ ids }) => ({ templateID: ids.name }), ...found },
  createSandboxV2: { body: ({ ids }) => ({ templateID: ids.name }), ...found },
  listSandboxes: own,
  listSandboxesV2: own,
  getSandbox: found,
  killSandbox: found,
  connectSandbox: { body: () => ({ timeout: 60 }), ...found },
  connectSandboxV2: { body: () => ({ timeout: 60 }), ...found },
  resumeSandbox: { body: () => ({ timeout: 60 }), ...found },
  pauseSandbox: found,
  setSandboxTimeout: { body: () => ({ timeout: 60 }), ...found },
  refreshSandbox: { body: () => ({ duration: 60 }), ...found },
  forkSandbox: { body: () => ({ count: 1 }), ...found },
  setSandboxNetwork: { body: () => network, ...found },
  getSandboxMetrics: found,
  getSandboxesMetrics: { query: ({ ids }) => `?sandbox_ids=${ids.id}`, ...own },
  getSandboxLogs: found,
  getSandboxLogsV2: found,
  createSnapshot: { body: () => ({ name: "n" }), ...found },
  listSnapshots: own,
  listTemplates: own,
  listTemplatesV2: own,
  getTemplate: found,
  deleteTemplate: found,
  findTemplateAlias: found,
  listTeams: own,
  requestBuild: { body: () => ({ name: "n" }), ...own },
  startBuild: { body: () => ({ fromTemplate: "base" }), ...found },
  getBuildStatus: found,
  getBuildLogs: found,
  getBuildUpload: found,
  putBuildFiles: found,
  updateTemplate: { body: () => ({ public: true }), ...found },
  updateTemplateV2: { body: () => ({ public: true }), ...found },
  listTemplateTags: found,
  assignTemplateTags: { body: ({ ids }) => ({ target: `${ids.name}:some-tag`, tags: ["x"] }), ...found },
  removeTemplateTags: { body: ({ ids }) => ({ name: ids.name, tags: ["some-tag"] }), ...found },
} as const satisfies Partial<Record<E2bRouteId, E2bExample>>;
