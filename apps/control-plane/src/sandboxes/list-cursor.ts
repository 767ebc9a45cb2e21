import { PlatformError, sandboxIdPattern } from "@roost/contract";

import { decodePosition, encodePosition } from "../page-position.ts";

export interface ListPosition {
  readonly timeCreated: Date;
  readonly id: string;
}

/** Where the next page starts, as an opaque word. */
export function encodeCursor({ timeCreated, id }: ListPosition): string {
  return encodePosition({ time: timeCreated, key: id });
}

export function decodeCursor(cursor: string): ListPosition {
  const position = decodePosition(cursor);
  if (position === undefined || !sandboxIdPattern.test(position.key)) {
    throw new PlatformError("request_invalid", "cursor: this is not a `next_cursor` of an earlier page");
  }
  return { timeCreated: position.time, id: position.key };
}
