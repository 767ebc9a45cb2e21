import { incomplete, nameReading, none, type HeadReading } from "./head-reading.ts";

/** A request line, of any method, up to HTTP/1.1; the target may be long. */
const requestLine = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32} \S+ HTTP\/1\.[01]$/;
/** A host, with the port that it may have */
const hostValue = /^([^\s:]*)(?::\d{1,5})?$/;

/** The host that an HTTP/1 request is for, from the first bytes of its connection. The guest wrote this. */
export function readHttpHost(bytes: Buffer): HeadReading {
  const lines = bytes.toString("latin1").split("\r\n");
  const rest = lines.pop(); // the beginning of a line
  const [first, ...headers] = lines;
  if (first === undefined) return rest === undefined || couldBeRequest(rest) ? incomplete : none("it does not begin as HTTP/1 does");
  if (!requestLine.test(first)) return none("it does not begin as HTTP/1 does");
  for (const line of headers) {
    if (line === "") return none("its request has no Host header");
    if (line.slice(0, 5).toLowerCase() === "host:") return nameReading(hostValue.exec(line.slice(5).trim())?.[1] ?? "");
  }
  return incomplete;
}

/** What speaks another protocol is not waited for until the deadline. */
function couldBeRequest(start: string): boolean {
  return /^[\x20-\x7e]*\r?$/.test(start) && !start.startsWith("PRI * HTTP/2");
}
