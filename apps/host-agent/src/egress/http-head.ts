import { incomplete, nameReading, none, type HeadReading } from "./head-reading.ts";

/** A request line, of any method, up to HTTP/1.1; the target may be long. */
const requestLine = /^([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (\S+) HTTP\/1\.[01]$/;
/** A field's name ends at its colon: what has a space there, or begins with one, is read in two ways by two servers */
const headerLine = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*$/;
/** A host, with the port that it may have */
const hostValue = /^([^\s:]*)(?::\d{1,5})?$/;
/** A target that names the host, too (RFC 9112, 3.2.2) */
const absoluteTarget = /^[a-z][a-z0-9+.-]*:\/\/(?:[^/?#@]*@)?([^/?#]*)/i;

/**
 * The host that an HTTP/1 request is for, from the first bytes of its connection. The guest wrote this: the whole head is read, and one that servers could read differently is refused, be it about who is asked or where
 * the request ends.
 */
export function readHttpHost(bytes: Buffer): HeadReading {
  const text = bytes.toString("latin1");
  const end = text.indexOf("\r\n\r\n");
  const lines = (end === -1 ? text : text.slice(0, end)).split("\r\n");
  if (end === -1) return couldBeHead(lines) ? incomplete : none("it does not begin as HTTP/1 does");
  const [first = "", ...headers] = lines;
  const [, method, target = ""] = requestLine.exec(first) ?? [];
  if (method === undefined) return none("it does not begin as HTTP/1 does");
  if (method === "CONNECT") return none("it asks for a proxy, and there is none");
  const fields = headers.map((line) => headerLine.exec(line));
  if (fields.includes(null) || /[\r\n\0]/.test(headers.join(""))) return none("its request has a malformed header");
  const valuesOf = (name: string) => fields.flatMap((field) => (field?.[1]?.toLowerCase() === name ? [field[2] ?? ""] : []));
  if (new Set(valuesOf("content-length")).size + new Set(valuesOf("transfer-encoding")).size > 1)
    return none("its request says in two ways where it ends");
  const hosts = valuesOf("host");
  if (hosts.length !== 1) return none(hosts.length === 0 ? "its request has no Host header" : "its request has two Host headers");
  const reading = nameReading(hostOf(hosts[0]));
  const absolute = absoluteTarget.exec(target)?.[1];
  if (absolute === undefined || reading.kind !== "name") return reading;
  const inTarget = nameReading(hostOf(absolute));
  return inTarget.kind === "name" && inTarget.name === reading.name
    ? reading
    : none("its request asks for one host, and its Host header for another");
}

function hostOf(text = ""): string {
  return hostValue.exec(text)?.[1] ?? "";
}

/** What speaks another protocol is not waited for until the deadline. */
function couldBeHead([first = "", ...more]: readonly string[]): boolean {
  if (more.length > 0) return requestLine.test(first);
  return /^[\x20-\x7e]*\r?$/.test(first) && !first.startsWith("PRI * HTTP/2");
}
