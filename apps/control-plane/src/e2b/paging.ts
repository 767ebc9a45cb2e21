import { PlatformError } from "@roost/contract";
import type { FastifyReply } from "fastify";

import { decodePosition, encodePosition, type PagePosition } from "../page-position.ts";

export function decodeToken(token: string): PagePosition {
  const position = decodePosition(token);
  if (position === undefined || !/^[A-Za-z0-9._:-]{1,256}$/.test(position.key)) {
    throw new PlatformError("request_invalid", "nextToken: this is not the X-Next-Token of an earlier page");
  }
  return position;
}

/** Where the next page starts; nothing on the last one. */
export function setNextToken(reply: FastifyReply, next: PagePosition | undefined): void {
  if (next !== undefined) void reply.header("x-next-token", encodePosition(next));
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
