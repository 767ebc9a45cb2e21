import { request, type IncomingHttpHeaders } from "node:http";
import type { Socket } from "node:net";

import { traceHeaders } from "@roost/kit/tracing";

/** Longest answer read from a guest in `bytes` unless the request expects more; most are a few hundred. */
const answerBytesMaxDefault = 64 * 1024;
/** Longest answer headers in `bytes` */
const headerBytesMax = 16 * 1024;

export interface GuestRequest {
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly answerBytesMax?: number;
  readonly signal: AbortSignal;
}

export interface GuestAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/**
 * One request over one connection to the guest agent. The guest is hostile: its answer is bounded in size, and in time by
 * the request's signal. The connection is gone when this settles.
 */
export async function askGuest(socket: Socket, asked: GuestRequest): Promise<GuestAnswer> {
  const { answerBytesMax = answerBytesMaxDefault } = asked;
  let onAbort = () => {};
  try {
    return await new Promise<GuestAnswer>((resolve, reject) => {
      // Whatever the guest makes of HTTP (an upgrade, half an answer, silence), the deadline ends it
      onAbort = () => reject(asked.signal.reason);
      asked.signal.addEventListener("abort", onAbort, { once: true });
      asked.signal.throwIfAborted();
      const call = request({
        method: asked.method,
        path: asked.path,
        host: "guest",
        headers: {
          connection: "close",
          ...traceHeaders(),
          ...(asked.body === undefined ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(asked.body) }),
          ...asked.headers,
        },
        maxHeaderSize: headerBytesMax,
        createConnection: () => socket,
        signal: asked.signal,
      });
      call.on("error", (error) => reject(asked.signal.aborted ? asked.signal.reason : error));
      call.on("response", (response) => {
        const chunks: Buffer[] = [];
        let bytes = 0;
        response.on("data", (chunk: Buffer) => {
          bytes += chunk.length;
          if (bytes > answerBytesMax) response.destroy(new Error(`the guest's answer is longer than ${answerBytesMax} bytes`));
          else chunks.push(chunk);
        });
        response.on("error", (error) => reject(asked.signal.aborted ? asked.signal.reason : error));
        response.on("end", () =>
          resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks).toString("utf8") }),
        );
      });
      call.end(asked.body);
    });
  } finally {
    asked.signal.removeEventListener("abort", onAbort);
    socket.on("error", () => undefined); // what it says from here on is of no interest
    socket.destroy();
  }
}
