export type { GuestContext } from "./context.ts";
export { createGuestAgent, type GuestAgent, type GuestAgentParts } from "./guest-agent.ts";
export { guestAgentOptions, type GuestAgentOptions } from "./options.ts";
