export { createControlPlane, databaseLocation, type ControlPlane, type ControlPlaneDependencies } from "./control-plane.ts";
export { openDatabase, type Database, type DatabaseLocation } from "./db/database.ts";
export type { HostDependency } from "./hosts/host-link.ts";
export { controlPlaneOptions, type ControlPlaneOptions } from "./options.ts";
export { ApiKeys, type ApiKey } from "./teams/api-keys.ts";
export type { HostPeer } from "./hosts/host-peer.ts";
export { RemoteTunnels } from "./hosts/remote-tunnels.ts";
