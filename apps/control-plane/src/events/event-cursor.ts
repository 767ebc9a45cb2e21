import { PlatformError } from "@roost/contract";

import { decodePosition, encodePosition } from "../page-position.ts";

export interface EventPosition {
  readonly timeCreated: Date;
  readonly number: number;
}

/** Where the next page starts, as an opaque word; its key is the number in base 36. */
export function encodeEventCursor({ timeCreated, number }: EventPosition): string {
  return encodePosition({ time: timeCreated, key: number.toString(36) });
}

export function decodeEventCursor(cursor: string): EventPosition {
  const position = decodePosition(cursor);
  if (position === undefined || !/^[0-9a-z]{1,10}$/.test(position.key)) {
    throw new PlatformError("request_invalid", "cursor: this is not a `next_cursor` of an earlier page");
  }
  return { timeCreated: position.time, number: Number.parseInt(position.key, 36) };
}
