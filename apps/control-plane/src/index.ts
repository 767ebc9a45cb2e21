export { createControlPlane, databaseLocation, type ControlPlane, type ControlPlaneDependencies } from "./control-plane.ts";
export { openDatabase, type Database, type DatabaseLocation } from "./db/database.ts";
export type { HostDependency } from "./hosts/host-link.ts";
export { controlPlaneOptions, type ControlPlaneOptions } from "./options.ts";
export { ApiKeys, type ApiKey, type ApiKeySummary } from "./teams/api-keys.ts";
