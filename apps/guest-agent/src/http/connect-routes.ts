import type { DescMessage } from "@bufbuild/protobuf";
import { createConnectRouter, type ServiceImpl } from "@connectrpc/connect";
import type { UniversalServerResponse } from "@connectrpc/connect/protocol";
import { compressionGzip, universalRequestFromNodeRequest } from "@connectrpc/connect-node";
import { MiB, must, type Logger } from "@roost/kit";
import { Filesystem } from "@roost/contract/gen/filesystem/filesystem_pb.js";
import { Process } from "@roost/contract/gen/process/process_pb.js";
import type { IncomingMessage, ServerResponse } from "node:http";

import type { ProcessStreams } from "../process/process-streams.ts";
import { HttpError } from "./http-error.ts";
import { ResponseWriter } from "./response-writer.ts";
import { createStreamRoute, type StreamRun } from "./stream-route.ts";

/**
 * Longest message of a client in `bytes`, after decompression: more than a process can get as arguments and
 * environment. Input comes in pieces. Applies to what an archive bomb unpacks to as well.
 */
export const messageBytesMax = 4 * MiB;

/** Answers are sent as they are: under emulation compressing costs far more than the few bytes on the tap device. */
const compressMinBytes = 2 ** 31;

type Services = { readonly process: ServiceImpl<typeof Process>; readonly filesystem: ServiceImpl<typeof Filesystem> };

export type ConnectHandler = (request: IncomingMessage, response: ServerResponse) => Promise<void>;

/** The Connect services by request path, over the Connect protocol and gRPC-web, JSON and binary. */
export function createConnectRoutes(
  services: Services,
  streams: ProcessStreams,
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
        await deliver(await handler(call), response);
      } catch (error) {
        // The client went away, or its connection broke: nobody is left to tell.
        log.debug({ err: error, method: handler.method.name }, "answer not delivered");
        response.destroy();
      }
    });
  }
  const { start, connect } = Process.method;
  const shortcut = <Input extends DescMessage>(input: Input, name: string, run: StreamRun<Input>) => {
    const path = `/${Process.typeName}/${name}`;
    routes.set(path, createStreamRoute({ input, run, messageBytesMax, fallback: must(routes.get(path), path) }));
  };
  shortcut(start.input, start.name, (request, call) => streams.start(request, call));
  shortcut(connect.input, connect.name, (request, call) => streams.connect(request, call));
  return routes;
}

async function deliver(answer: UniversalServerResponse, response: ServerResponse): Promise<void> {
  response.writeHead(answer.status, Object.fromEntries(answer.header ?? []));
  const writer = new ResponseWriter(response);
  for await (const bytes of answer.body ?? []) if (!(await writer.write(bytes))) return;
  writer.end();
}
