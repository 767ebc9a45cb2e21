import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerOptions, type ServerResponse } from "node:http";

/** Takes requests that are for somebody else than the API, before any of its routes, parsers and limits sees them. */
export interface RequestFront {
  claims(request: IncomingMessage): boolean;
  /** Answers a request that it claimed. Where the client waits for `100 Continue`, it sends that as well. */
  handle(request: IncomingMessage, response: ServerResponse): void;
}

/** An HTTP server in which `front` comes before `listener`. */
export function createFrontedServer(options: ServerOptions, listener: RequestListener, front: RequestFront | undefined): Server {
  const server = createServer(options, (request, response) => {
    if (front?.claims(request) === true) front.handle(request, response);
    else listener(request, response);
  });
  server.on("checkContinue", (request: IncomingMessage, response: ServerResponse) => {
    if (front?.claims(request) !== true) response.writeContinue(); // as Node does without a listener here
    server.emit("request", request, response);
  });
  return server;
}
