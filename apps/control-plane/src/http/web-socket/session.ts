import type { PlatformError } from "@roost/contract";
import type { Logger } from "@roost/kit";

import type { Guest } from "../../guest/guest.ts";
import { closeCodes } from "./json-socket.ts";

/** What a WebSocket session works with. */
export interface SessionContext {
  readonly guest: Guest;
  readonly params: Readonly<Record<string, string>>;
  readonly query: Readonly<Record<string, string>>;
  readonly log: Logger;
}

/** The close code that goes with an error a client was told of. */
export function closeCodeOf(error: PlatformError): number {
  return error.status >= 500 ? closeCodes.internal : closeCodes.policy;
}
