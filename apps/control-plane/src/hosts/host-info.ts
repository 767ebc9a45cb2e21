import type { HostDescription, HostLoad } from "@roost/contract";

/** What a host says of itself when it is asked. */
export type HostInfo = HostDescription &
  HostLoad & {
    /** Hosts that say the same go on with each other's memory images; empty: it does not say */
    readonly memory_fingerprint: string;
  };
