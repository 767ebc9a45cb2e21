/** Bytes of what was seen last by which the place to go on is searched. */
const anchorBytes = 256;

/**
 * What `latest` has beyond `seen`, when both are the newest part of a text that only grows. Looks for the end of what
 * was seen; all of `latest` is new when it is not there (more came between two looks than was asked for, or the text
 * began anew).
 */
export function newBytes(seen: Buffer, latest: Buffer): Buffer {
  const anchor = seen.subarray(-anchorBytes);
  if (anchor.length === 0) return latest;
  for (let at = latest.lastIndexOf(anchor); at >= 0; at = at === 0 ? -1 : latest.lastIndexOf(anchor, at - 1)) {
    const common = latest.subarray(0, at + anchor.length);
    // everything before the place must be what was seen before it, or this is a repetition elsewhere
    const isSame = common.length <= seen.length ? seen.subarray(-common.length).equals(common) : common.subarray(-seen.length).equals(seen);
    if (isSame) return latest.subarray(at + anchor.length);
  }
  return latest;
}
