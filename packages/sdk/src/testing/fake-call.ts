import type { IncomingMessage, ServerResponse } from "node:http";

import type { ErrorCode, EndpointId } from "@roost/contract";
import type { RawData, WebSocket } from "ws";

/** What an HTTP handler of the fake gets. */
export interface FakeCall {
  readonly parameters: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** The JSON body, checked and completed by the endpoint's schema; undefined when it takes none. */
  readonly body: unknown;
}

export interface FakeSocketCall {
  readonly parameters: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  readonly socket: WebSocket;
}

export class FakeError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

export interface FakeHandlers {
  /** Returns the JSON to answer with, or undefined when it answered itself. */
  http: Partial<Record<EndpointId, (call: FakeCall) => unknown>>;
  socket: Partial<Record<EndpointId, (call: FakeSocketCall) => void>>;
}

/** A client's message as JSON, however ws delivered it. */
export function jsonOf(data: RawData): unknown {
  return JSON.parse((data as Buffer).toString("utf8"));
}
