export { createHostAgent, hostAgentVersion, type HostAgent, type HostAgentDeps } from "./host-agent.ts";
export { InstanceLockedError } from "./instance-lock.ts";
export { instanceOf, openInstance, type Instance } from "./instance.ts";
export { hostAgentOptions, imagesFolder, type HostAgentOptions } from "./options.ts";
export { findResolvers } from "./network/resolvers.ts";
