/** What a part's `Content-Disposition` says; undefined where it says nothing. */
export interface PartDisposition {
  readonly name: string | undefined;
  /** as the sender wrote it, folders included */
  readonly filename: string | undefined;
}

/** Reads the head of a part: lines without their last break. A part without a disposition has no name. */
export function parseDisposition(head: string): PartDisposition {
  const unfolded = head.replaceAll(/\r\n[ \t]+/g, " ");
  for (const line of unfolded.split("\r\n")) {
    const colon = line.indexOf(":");
    if (colon < 0 || line.slice(0, colon).trim().toLowerCase() !== "content-disposition") continue;
    const parameters = parseParameters(line.slice(colon + 1));
    return { name: parameters.get("name"), filename: extended(parameters.get("filename*")) ?? parameters.get("filename") };
  }
  return { name: undefined, filename: undefined };
}

/** Boundary of a `Content-Type: multipart/form-data`, or undefined where it is no such type or has none. */
export function boundaryOf(contentType: string): string | undefined {
  const [type] = contentType.split(";", 1);
  if (type?.trim().toLowerCase() !== "multipart/form-data") return undefined;
  const boundary = parseParameters(contentType).get("boundary");
  return boundary !== undefined && boundary.length > 0 && boundary.length <= 200 ? boundary : undefined;
}

/**
 * Parameters behind the first ";", the first of equal ones. In quotes a backslash stands for itself, unless it is in
 * front of a quote or another backslash: browsers send folders of Windows as they are.
 */
export function parseParameters(text: string): Map<string, string> {
  const parameters = new Map<string, string>();
  const pattern = /;\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\[^])*)"|([^\s;"]*))/g;
  for (const match of text.matchAll(pattern)) {
    const name = match[1]?.toLowerCase() ?? "";
    if (!parameters.has(name)) parameters.set(name, match[2]?.replaceAll(/\\(["\\])/g, "$1") ?? match[3] ?? "");
  }
  return parameters;
}

/** `utf-8''na%C3%AFve` (RFC 8187). Undefined for what is not that. */
function extended(value: string | undefined): string | undefined {
  const match = /^utf-8'[^']*'(.*)$/i.exec(value ?? "");
  if (match === null) return undefined;
  try {
    return decodeURIComponent(match[1] ?? "");
  } catch {
    return undefined; // not percent-encoded UTF-8: the plain name counts
  }
}
