import { PlatformError, sandboxIdPattern } from "@roost/contract";

export interface ListPosition {
  readonly timeCreated: Date;
  readonly id: string;
}

/** Where the next page starts, as an opaque word: `<unix ms in base 36>_<id>`. */
export function encodeCursor(position: ListPosition): string {
  return Buffer.from(`${position.timeCreated.getTime().toString(36)}_${position.id}`).toString("base64url");
}

export function decodeCursor(cursor: string): ListPosition {
  const [time, id, ...rest] = Buffer.from(cursor, "base64url").toString("latin1").split("_");
  const ms = /^[0-9a-z]{1,9}$/.test(time ?? "") ? Number.parseInt(time ?? "", 36) : Number.NaN;
  if (Number.isNaN(ms) || id === undefined || !sandboxIdPattern.test(id) || rest.length > 0) {
    throw new PlatformError("request_invalid", "cursor: this is not a `next_cursor` of an earlier page");
  }
  return { timeCreated: new Date(ms), id };
}
