import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";

import { errorCatalogue, newApiKey, newToken, endpoints, type EndpointId } from "@roost/contract";
import { WebSocketServer } from "ws";

import { endpointOf } from "../endpoint-types.ts";
import { FakeError, type FakeHandlers } from "./fake-call.ts";
import { LocalAccounts } from "./local-accounts.ts";
import { localPortHandlers } from "./local-ports.ts";
import { localHandlers, LocalSandboxes } from "./local-sandboxes.ts";

export { FakeError } from "./fake-call.ts";

interface Route {
  readonly id: EndpointId;
  readonly method: string;
  readonly pattern: RegExp;
}

const routes: Route[] = (Object.keys(endpoints) as EndpointId[]).map((id) => ({
  id,
  method: endpoints[id].method,
  pattern: new RegExp(`^${endpoints[id].path.replaceAll(/\{(\w+)\}/g, "(?<$1>[^/]+)")}$`),
}));

/**
 * The native API in this process, for tests: routes, checks of what is sent and the shape of errors come from the
 * contract's table; its sandboxes are folders and ordinary local processes. Single endpoints can be replaced.
 */
export class FakeApi implements AsyncDisposable {
  readonly apiKey = newApiKey();
  readonly sessionToken = `session_${newToken()}`;
  readonly sandboxes = new LocalSandboxes();
  readonly accounts = new LocalAccounts(this.sessionToken);
  /** Every request, as `METHOD /path?query`. */
  readonly seen: string[] = [];
  readonly handlers: FakeHandlers = localHandlers(this.sandboxes);
  readonly #server: Server;
  readonly #sockets = new WebSocketServer({ noServer: true, maxPayload: 1024 * 1024 });

  private constructor() {
    Object.assign(this.handlers.http, this.accounts.handlers(), localPortHandlers());
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch((error: unknown) => sendError(response, error));
    });
    this.#server.on("upgrade", (request, socket, head) => this.#upgrade(request, socket, head));
  }

  static async start(): Promise<FakeApi> {
    const api = new FakeApi();
    await new Promise<void>((resolve) => api.#server.listen(0, "127.0.0.1", resolve));
    return api;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Ends all open connections at once, as a crash would. */
  dropConnections(): void {
    for (const client of this.#sockets.clients) client.terminate();
    this.#server.closeAllConnections();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dropConnections();
    await new Promise((resolve) => this.#server.close(resolve));
    await this.sandboxes.removeAll();
  }

  #match(request: IncomingMessage) {
    const url = new URL(request.url ?? "/", "http://fake");
    this.seen.push(`${request.method} ${url.pathname}${url.search}`);
    const isKnown = request.headers["x-api-key"] === this.apiKey || request.headers.authorization === `Bearer ${this.sessionToken}`;
    for (const route of routes) {
      const match = route.method === request.method ? route.pattern.exec(url.pathname) : null;
      if (match === null) continue;
      if (!isKnown && endpointOf(route.id).access !== "open") throw new FakeError("api_key_invalid", "the API key is not known");
      const parameters = Object.fromEntries(Object.entries(match.groups ?? {}).map(([name, value]) => [name, decodeURIComponent(value)]));
      const query = Object.fromEntries([...new Set(url.searchParams.keys())].map((key) => [key, oneOrMany(url.searchParams.getAll(key))]));
      const checked = endpointOf(route.id).query?.safeParse(query);
      if (checked?.success === false) throw new FakeError("request_invalid", checked.error.message);
      return { id: route.id, parameters, query: url.searchParams };
    }
    if (!isKnown) throw new FakeError("api_key_invalid", "the API key is not known");
    throw new FakeError("route_not_found", `nothing at ${url.pathname}`);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { id, parameters, query } = this.#match(request);
    const endpoint = endpointOf(id);
    let body: unknown;
    if (endpoint.body !== undefined && endpoint.body !== "stream") {
      const parsed = endpoint.body.safeParse(JSON.parse((await readAll(request)) || "{}"));
      if (!parsed.success) throw new FakeError("request_invalid", parsed.error.message);
      body = parsed.data;
    }
    const handler = this.handlers.http[id];
    if (handler === undefined) throw new FakeError("internal", `the fake does not do ${id}`);
    const answer = await handler({ parameters, query, request, response, body });
    if (response.writableEnded || response.headersSent) return;
    const isBackground = id === "exec" && (body as { background?: boolean }).background === true;
    const status = isBackground ? 202 : Number(Object.keys(endpoint.answers)[0]);
    if (endpoint.answers[status] === "empty") {
      response.writeHead(status).end();
      return;
    }
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(answer));
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    try {
      const { id, parameters, query } = this.#match(request);
      const handler = this.handlers.socket[id];
      if (handler === undefined) throw new FakeError("internal", `the fake does not do ${id}`);
      this.#sockets.handleUpgrade(request, socket, head, (webSocket) => handler({ parameters, query, socket: webSocket }));
    } catch (error) {
      const body = JSON.stringify(errorBody(error));
      const { status } = errorCatalogue[error instanceof FakeError ? error.code : "internal"];
      socket.end(
        `HTTP/1.1 ${status} Refused\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
      );
    }
  }
}

const oneOrMany = (values: string[]) => (values.length === 1 ? values[0] : values);

async function readAll(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).toString("utf8");
}

function errorBody(error: unknown) {
  const code = error instanceof FakeError ? error.code : "internal";
  return { error: { code, message: error instanceof Error ? error.message : String(error) } };
}

function sendError(response: ServerResponse, error: unknown): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const body = errorBody(error);
  response.writeHead(errorCatalogue[body.error.code].status, { "content-type": "application/json", "x-request-id": "req-1" });
  response.end(JSON.stringify(body));
}
