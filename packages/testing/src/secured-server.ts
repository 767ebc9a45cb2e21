import type { TestIdentity } from "./test-authority.ts";

/**
 * A Node program that is an HTTPS server (by default on 127.0.0.1:8443), for a test to run where it likes (in a namespace): prints `ready`, then a line of JSON for each request that it gets. What it
 * answers depends on the path: `/echo` with the body, `/slow` in pieces, `/redirect` with a way to another name, `/cut` with less than it announced; `/socket` is a WebSocket's
 * handshake, and echoes bytes after that; everything else with `ok`.
 */
export function securedServerScript(identity: TestIdentity, { address = "127.0.0.1", port = 8_443 } = {}): string {
  return `
const https = require("node:https");
const server = https.createServer(${JSON.stringify({ key: identity.keyPem, cert: identity.certificatePem })}, (request, response) => {
  const hash = require("node:crypto").createHash("sha256");
  let length = 0;
  request.on("data", (chunk) => { length += chunk.length; hash.update(chunk); });
  request.on("end", () => console.log(JSON.stringify({ method: request.method, url: request.url, headers: request.rawHeaders, length, digest: hash.digest("hex") })));
  request.on("error", () => {});
  if (request.url === "/echo") { response.writeHead(200, { "x-up": "1", "alt-svc": 'h3=":443"' }); return request.pipe(response); }
  request.resume();
  if (request.url === "/slow") { response.writeHead(200); response.write("one "); setTimeout(() => response.end("two\\n"), 200); return; }
  if (request.url === "/redirect") { response.writeHead(302, { location: "https://other.secured.test/there" }); return response.end(); }
  if (request.url === "/cut") { response.writeHead(200, { "content-length": 100 }); response.write("half"); setTimeout(() => response.destroy(), 50); return; }
  if (request.url === "/close") { response.writeHead(200, { connection: "close" }); return response.end("bye\\n"); }
  response.end("ok\\n");
});
server.on("upgrade", (request, socket, head) => {
  console.log(JSON.stringify({ method: request.method, url: request.url, headers: request.rawHeaders, length: 0, digest: "" }));
  socket.on("error", () => {});
  socket.write("HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Accept: any\\r\\n\\r\\n");
  if (head.length > 0) socket.write(head);
  socket.pipe(socket);
});
server.listen(${port}, "${address}", () => console.log("ready"));
`;
}

/** A request as the program tells it. */
export interface SecuredRequest {
  readonly method: string;
  readonly url: string;
  /** Name after name and value */
  readonly headers: readonly string[];
  /** Of the body in `bytes`, and its SHA-256 */
  readonly length: number;
  readonly digest: string;
}

/** The requests in the program's output so far. */
export function securedRequests(output: string): SecuredRequest[] {
  return output
    .split("\n")
    .slice(0, -1) // what follows the last end of a line is one that is still coming
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as SecuredRequest);
}

/** Values of a header, by its name in lower case. */
export function headerValues(request: SecuredRequest, name: string): string[] {
  return request.headers.filter((_, index) => index % 2 === 1 && request.headers[index - 1]?.toLowerCase() === name);
}
