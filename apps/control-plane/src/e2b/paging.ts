import { PlatformError } from "@roost/contract";
import type { FastifyReply } from "fastify";

/** One place in a list: an instant, and what tells apart those that have the same. */
export interface PagePosition {
  readonly time: Date;
  readonly key: string;
}

/** As an opaque word: `<unix ms in base 36> <key>`. */
export function encodeToken({ time, key }: PagePosition): string {
  return Buffer.from(`${time.getTime().toString(36)} ${key}`).toString("base64url");
}

export function decodeToken(token: string): PagePosition {
  const [time = "", key = "", ...rest] = Buffer.from(token, "base64url").toString("latin1").split(" ");
  // 9 digits of base 36: to the year 5188
  if (!/^[0-9a-z]{1,9}$/.test(time) || !/^[A-Za-z0-9._:-]{1,256}$/.test(key) || rest.length > 0) {
    throw new PlatformError("request_invalid", "nextToken: this is not the X-Next-Token of an earlier page");
  }
  return { time: new Date(Number.parseInt(time, 36)), key };
}

/** Where the next page starts; nothing on the last one. */
export function setNextToken(reply: FastifyReply, next: PagePosition | undefined): void {
  if (next !== undefined) void reply.header("x-next-token", encodeToken(next));
}

/** A page of a list that is there as a whole, newest first. */
export function pageOf<Item>(
  items: readonly Item[],
  positionOf: (item: Item) => PagePosition,
  query: { readonly limit: number; readonly nextToken: string | undefined },
): { readonly items: readonly Item[]; readonly next: PagePosition | undefined } {
  const sorted = [...items].sort((a, b) => compare(positionOf(a), positionOf(b)));
  const after = query.nextToken === undefined ? undefined : decodeToken(query.nextToken);
  const rest = after === undefined ? sorted : sorted.filter((item) => compare(positionOf(item), after) > 0);
  const page = rest.slice(0, query.limit);
  const last = page.at(-1);
  return { items: page, next: rest.length > page.length && last !== undefined ? positionOf(last) : undefined };
}

function compare(a: PagePosition, b: PagePosition): number {
  const byTime = b.time.getTime() - a.time.getTime();
  if (byTime !== 0) return byTime;
  return a.key < b.key ? -1 : Number(a.key > b.key);
}
