/** One place in a list: an instant, and what tells apart those that have the same. */
export interface PagePosition {
  readonly time: Date;
  readonly key: string;
}

/** 9 digits of base 36: to the year 5188 */
const positionPattern = /^([0-9a-z]{1,9})_(.*)$/s;

/** As an opaque word for clients: `<unix ms in base 36>_<key>`. */
export function encodePosition({ time, key }: PagePosition): string {
  return Buffer.from(`${time.getTime().toString(36)}_${key}`).toString("base64url");
}

/** What a client gave back; undefined when it cannot be one. The key may be anything: whoever knows what it is checks it. */
export function decodePosition(word: string): PagePosition | undefined {
  const [, time, key] = positionPattern.exec(Buffer.from(word, "base64url").toString("latin1")) ?? [];
  return time === undefined || key === undefined ? undefined : { time: new Date(Number.parseInt(time, 36)), key };
}
