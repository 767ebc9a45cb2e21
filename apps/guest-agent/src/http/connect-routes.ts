import { Code, ConnectError, createConnectRouter, type ServiceImpl } from "@connectrpc/connect";
import { compressionGzip, universalRequestFromNodeRequest, universalResponseToNodeResponse } from "@connectrpc/connect-node";
import { MiB, type Logger } from "@roost/kit";
import { Filesystem } from "@roost/contract/gen/filesystem/filesystem_pb.js";
import { Process } from "@roost/contract/gen/process/process_pb.js";
import type { IncomingMessage, ServerResponse } from "node:http";

import { HttpError } from "./http-error.ts";

/**
 * Longest message of a client in `bytes`, after decompression: more than a process can get as arguments and
 * environment. Input comes in pieces. Applies to what an archive bomb unpacks to as well.
 */
export const messageBytesMax = 4 * MiB;

/** Answers are sent as they are: under emulation compressing costs far more than the few bytes on the tap device. */
const compressMinBytes = 2 ** 31;

export type ConnectHandler = (request: IncomingMessage, response: ServerResponse) => Promise<void>;

/** The Connect services by request path, over the Connect protocol and gRPC-web, JSON and binary. */
export function createConnectRoutes(
  services: { readonly process: ServiceImpl<typeof Process>; readonly filesystem: ServiceImpl<typeof Filesystem> },
  log: Logger,
  shutdown: AbortSignal,
): ReadonlyMap<string, ConnectHandler> {
  const router = createConnectRouter({
    acceptCompression: [compressionGzip],
    compressMinBytes,
    readMaxBytes: messageBytesMax,
    grpc: false, // needs HTTP/2
    jsonOptions: { ignoreUnknownFields: true },
    shutdownSignal: shutdown,
  });
  router.service(Process, services.process).service(Filesystem, services.filesystem);
  const routes = new Map<string, ConnectHandler>();
  for (const handler of router.handlers) {
    routes.set(handler.requestPath, async (request, response) => {
      let call: Parameters<typeof handler>[0];
      try {
        call = universalRequestFromNodeRequest(request, response, undefined, undefined);
      } catch (error) {
        throw new HttpError(400, "the Host header is missing or not valid", error);
      }
      try {
        await universalResponseToNodeResponse(await handler(call), response);
      } catch (error) {
        // The client went away, or its connection broke: nobody is left to tell.
        if (ConnectError.from(error).code !== Code.Aborted) log.debug({ err: error, method: handler.method.name }, "answer not delivered");
        response.destroy();
      }
    });
  }
  return routes;
}
