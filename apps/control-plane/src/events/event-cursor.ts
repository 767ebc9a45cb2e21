import { PlatformError } from "@roost/contract";

export interface EventPosition {
  readonly timeCreated: Date;
  readonly number: number;
}

/** Where the next page starts, as an opaque word: `<unix ms in base 36>_<number in base 36>`. */
export function encodeEventCursor({ timeCreated, number }: EventPosition): string {
  return Buffer.from(`${timeCreated.getTime().toString(36)}_${number.toString(36)}`).toString("base64url");
}

export function decodeEventCursor(cursor: string): EventPosition {
  const text = Buffer.from(cursor, "base64url").toString("latin1");
  const [, time, number] = /^([0-9a-z]{1,9})_([0-9a-z]{1,10})$/.exec(text) ?? [];
  if (time === undefined || number === undefined) {
    throw new PlatformError("request_invalid", "cursor: this is not a `next_cursor` of an earlier page");
  }
  return { timeCreated: new Date(Number.parseInt(time, 36)), number: Number.parseInt(number, 36) };
}
