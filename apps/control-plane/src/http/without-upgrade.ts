import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { Socket } from "node:net";
import type { Duplex } from "node:stream";

/** Headers that only say that the client could speak HTTP/2 as well. */
const dropped: ReadonlySet<string> = new Set(["upgrade", "http2-settings", "connection"]);

/** Times that one connection is taken back to HTTP; each leaves listeners on it, so then it is closed. Clients ask once per connection */
const offersMax = 4;
const offers = new WeakMap<Duplex, number>();

/** The newest answer that is on its way on a connection */
const answering = new WeakMap<Duplex, ServerResponse>();

/**
 * Whether a request asks for HTTP/2 on this connection. Some clients (Java's, `curl --http2`) do so with each first request, and go on with
 * HTTP/1.1 when nobody heeds it, as servers may (RFC 9110, 7.8).
 */
export function asksForHttp2(request: IncomingMessage): boolean {
  return request.headers.upgrade?.toLowerCase() === "h2c";
}

/** Remembers what a connection's next request may have to wait for. */
export function noteAnswer({ socket }: IncomingMessage, response: ServerResponse): void {
  answering.set(socket, response);
  response.once("close", () => {
    if (answering.get(socket) === response) answering.delete(socket);
  });
}

/**
 * Serves a request of an `upgrade` event as if it had not asked: Node takes every request with such a header off HTTP for good. One that came before
 * the answer to the request before it waits for that: Node would never send an answer of HTTP that was taken up anew behind one of before.
 */
export function serveWithoutUpgrade(server: Server, request: IncomingMessage, stream: Duplex, head: Buffer): void {
  const earlier = answering.get(stream);
  if (earlier === undefined) serve(server, request, stream, head);
  else {
    earlier.once("close", () => {
      if (stream instanceof Socket) stream.setTimeout(0); // that of a connection without requests: it is not without
      if (!stream.destroyed) serve(server, request, stream, head);
    });
  }
}

function serve(server: Server, request: IncomingMessage, stream: Duplex, head: Buffer): void {
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
