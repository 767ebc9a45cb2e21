export * from "./accounts.ts";
export * from "./admin.ts";
export * from "./api-keys.ts";
export * from "./audit.ts";
export * from "./channels.ts";
export { isDomain, matchesDomain } from "./domains.ts";
export * from "./errors.ts";
export * from "./events.ts";
export * from "./guest-agent.ts";
export * from "./guest-logs.ts";
export * from "./guest-use.ts";
export {
  findHeaderRule,
  headerRulesSchema,
  mapHeaderValues,
  redactedValue,
  ruleHeadersSchema,
  type HeaderRule,
  type HeaderRules,
} from "./header-rules.ts";
export * from "./host-agent.ts";
export * from "./host-registration.ts";
export * from "./hosts.ts";
export * from "./ids.ts";
export * from "./images.ts";
export * from "./limits.ts";
export * from "./operations.ts";
export * from "./logs.ts";
export * from "./members.ts";
export * from "./network.ts";
export * from "./ports.ts";
export * from "./endpoints/table.ts";
export * from "./recipes.ts";
export * from "./sandbox-state.ts";
export * from "./sandboxes.ts";
export * from "./scopes.ts";
export * from "./signed-files.ts";
export * from "./snapshots.ts";
export * from "./teams.ts";
export * from "./templates.ts";
export * from "./tunnels.ts";
export * from "./usage.ts";
