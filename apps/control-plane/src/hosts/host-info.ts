import type { HostDescription, HostLoad } from "@roost/contract";

/** What a host says of itself when it is asked. */
export type HostInfo = HostDescription & HostLoad;
