import type { IncomingMessage, Server } from "node:http";
import type { Duplex } from "node:stream";

/** Headers that only say that the client could speak HTTP/2 as well. */
const dropped: ReadonlySet<string> = new Set(["upgrade", "http2-settings", "connection"]);

/** Times that one connection is taken back to HTTP; each leaves listeners on it, so then it is closed. Clients ask once per connection */
const offersMax = 4;
const offers = new WeakMap<Duplex, number>();

/**
 * Whether a request asks for HTTP/2 on this connection. Some clients (Java's, `curl --http2`) do so with each first request, and go on with
 * HTTP/1.1 when nobody heeds it, as servers may (RFC 9110, 7.8).
 */
export function asksForHttp2(request: IncomingMessage): boolean {
  return request.headers.upgrade?.toLowerCase() === "h2c";
}

/** Serves a request of an `upgrade` event as if it had not asked: Node takes every request with such a header off HTTP for good. */
export function serveWithoutUpgrade(server: Server, request: IncomingMessage, stream: Duplex, head: Buffer): void {
  const lines = [`${request.method} ${request.url} HTTP/1.1`];
  for (let index = 0; index < request.rawHeaders.length; index += 2) {
    const name = request.rawHeaders[index] ?? "";
    if (!dropped.has(name.toLowerCase())) lines.push(`${name}: ${request.rawHeaders[index + 1]}`);
  }
  const options = (request.headers.connection ?? "").split(",").filter((option) => !dropped.has(option.trim().toLowerCase()));
  const count = (offers.get(stream) ?? 0) + 1;
  offers.set(stream, count);
  if (count >= offersMax) options.push("close");
  if (options.length > 0) lines.push(`Connection: ${options.join(",")}`);
  stream.unshift(Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"), head]));
  server.emit("connection", stream);
}
