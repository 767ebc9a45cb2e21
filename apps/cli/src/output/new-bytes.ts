/** Bytes at the end of what was seen by which the place to go on is searched. */
const anchorBytes = 256;

/**
 * What `latest` has beyond `seen`, when both are the newest bytes, up to the same number, of a text that only grows:
 * the longest beginning of `latest` with which `seen` ends is old. All of it is new when there is none: more came
 * between two looks than was asked for, or the text began anew.
 */
export function newBytes(seen: Buffer, latest: Buffer): Buffer {
  const anchor = seen.subarray(-anchorBytes);
  if (anchor.length === 0) return latest;
  const last = Math.min(seen.length, latest.length) - anchor.length;
  for (let at = last < 0 ? -1 : latest.lastIndexOf(anchor, last); at >= 0; at = at === 0 ? -1 : latest.lastIndexOf(anchor, at - 1)) {
    const old = latest.subarray(0, at + anchor.length);
    if (seen.subarray(-old.length).equals(old)) return latest.subarray(old.length);
  }
  return latest;
}
