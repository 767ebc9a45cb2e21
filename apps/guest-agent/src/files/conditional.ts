import type { BigIntStats } from "node:fs";
import type { IncomingHttpHeaders } from "node:http";

/** Strong: inode, size and time of change in `ns` are never all the same after a write. Each coding is a thing of its own. */
export function entityTag(stats: Pick<BigIntStats, "ino" | "size" | "mtimeNs" | "ctimeNs">, zipped: boolean): string {
  const parts = [stats.ino, stats.size, stats.mtimeNs, stats.ctimeNs].map((part) => part.toString(36));
  return `"${parts.join("-")}${zipped ? "-gzip" : ""}"`;
}

/** Whether the client has the file already: a 304 (RFC 9110, 13.2.2). `If-None-Match` wins over the date. */
export function isUnchanged(headers: IncomingHttpHeaders, tags: readonly string[], modified: Date): boolean {
  const noneMatch = headers["if-none-match"];
  if (noneMatch !== undefined) {
    return noneMatch.trim() === "*" || noneMatch.split(",").some((tag) => tags.includes(tag.trim().replace(/^W\//, "")));
  }
  const since = headers["if-modified-since"] === undefined ? Number.NaN : Date.parse(headers["if-modified-since"]);
  return wholeSeconds(modified) <= since; // false for what is no date
}

/** Whether a range may be served: `If-Range` is absent, or names the file as it is. Otherwise the whole file is sent. */
export function isRangeCurrent(headers: IncomingHttpHeaders, tag: string, modified: Date): boolean {
  const condition = headers["if-range"];
  if (typeof condition !== "string") return condition === undefined;
  const text = condition.trim();
  if (text.startsWith('"') || text.startsWith("W/")) return text === tag;
  return Date.parse(text) === wholeSeconds(modified);
}

/** Unix `ms` of the second an HTTP date can say. */
function wholeSeconds(date: Date): number {
  return Math.floor(date.getTime() / 1000) * 1000;
}
