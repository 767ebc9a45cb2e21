import { fromBinary, fromJsonString, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { codeToString } from "@connectrpc/connect/protocol-connect";
import type { IncomingMessage, ServerResponse } from "node:http";

import type { StreamCall, StreamItem } from "../process/process-streams.ts";
import { encodeItem, type Codec } from "../process/stream-event.ts";
import type { ConnectHandler } from "./connect-routes.ts";
import { readBody } from "./read-body.ts";
import { ResponseWriter } from "./response-writer.ts";

/** Flag of the envelope that ends a stream. */
const endStreamFlag = 0x02;
const envelopeHeadBytes = 5;

const codecs: Readonly<Record<string, Codec>> = { "application/connect+json": "json", "application/connect+proto": "proto" };

/** Longest deadline in `ms` a timer can hold. */
const timerMsMax = 2 ** 31 - 1;

/** Answers a request with the items of a stream. */
export type StreamRun<Input extends DescMessage> = (request: MessageShape<Input>, call: StreamCall) => AsyncGenerator<StreamItem>;

/**
 * A server-streaming method over the Connect protocol, for requests as the clients send them: one message, not compressed.
 * Everything else (gRPC-web, compression) goes to `fallback`, the library's handler, with the same result.
 *
 * Why not the library alone: it pipes every event through some ten layers of asynchronous generators. Under emulation and
 * without a JIT that is more than half of the time it takes to run `true`.
 */
export function createStreamRoute<Input extends DescMessage>(parts: {
  readonly input: Input;
  readonly run: StreamRun<Input>;
  readonly messageBytesMax: number;
  readonly fallback: ConnectHandler;
}): ConnectHandler {
  return async (request, response) => {
    const contentType = request.headers["content-type"] ?? "";
    const codec = codecs[contentType];
    if (codec === undefined || request.method !== "POST" || request.headers["connect-content-encoding"] !== undefined) {
      await parts.fallback(request, response);
      return;
    }
    const call = new NodeStreamCall(request, response);
    const writer = new ResponseWriter(response);
    let failure: ConnectError | undefined;
    try {
      const message = parseMessage(parts.input, codec, await readEnvelope(request, parts.messageBytesMax));
      call.startDeadline();
      for await (const item of parts.run(message, call)) {
        if (!response.headersSent) writeHead(response, contentType);
        if (!(await writer.write(envelope(0, encodeItem(item, codec))))) return;
      }
    } catch (error) {
      failure = error instanceof ConnectError ? error : new ConnectError("internal error", Code.Internal, undefined, undefined, error);
      if (failure.code === Code.Internal) throw error; // a bug of ours: the server logs it and cuts the connection
    } finally {
      call.end();
    }
    if (response.destroyed) return;
    if (!response.headersSent) writeHead(response, contentType);
    writer.end(envelope(endStreamFlag, Buffer.from(JSON.stringify(endOfStream(failure)))));
  };
}

function writeHead(response: ServerResponse, contentType: string): void {
  response.writeHead(200, { "content-type": contentType });
}

function endOfStream(failure: ConnectError | undefined): object {
  return failure === undefined ? {} : { error: { code: codeToString(failure.code), message: failure.rawMessage } };
}

function envelope(flags: number, bytes: Uint8Array): Uint8Array {
  const whole = Buffer.allocUnsafe(envelopeHeadBytes + bytes.length);
  whole.writeUInt8(flags, 0);
  whole.writeUInt32BE(bytes.length, 1);
  whole.set(bytes, envelopeHeadBytes);
  return whole;
}

/** The message of the one envelope a request has. */
async function readEnvelope(request: IncomingMessage, messageBytesMax: number): Promise<Buffer> {
  const body = await readBody(request, messageBytesMax + envelopeHeadBytes, {
    tooLarge: () => tooLarge(messageBytesMax),
    cut: () => new ConnectError("the request was cut", Code.Aborted),
  });
  if (body.length < envelopeHeadBytes) throw new ConnectError("the request holds no message", Code.InvalidArgument);
  const length = body.readUInt32BE(1);
  if (length > messageBytesMax) throw tooLarge(messageBytesMax);
  if (body.readUInt8(0) !== 0 || length !== body.length - envelopeHeadBytes) {
    throw new ConnectError("the request must hold exactly one message that is not compressed", Code.InvalidArgument);
  }
  return body.subarray(envelopeHeadBytes);
}

function parseMessage<Input extends DescMessage>(input: Input, codec: Codec, bytes: Buffer): MessageShape<Input> {
  try {
    return codec === "json" ? fromJsonString(input, bytes.toString("utf8"), { ignoreUnknownFields: true }) : fromBinary(input, bytes);
  } catch (error) {
    throw new ConnectError(
      `the message is not valid: ${error instanceof Error ? error.message : ""}`,
      Code.InvalidArgument,
      undefined,
      undefined,
      error,
    );
  }
}

/** One to ten digits. Not by a regular expression: compiling it is on the way of a restored guest's first command. */
function isNumber(text: string): boolean {
  for (let index = 0; index < text.length; index += 1) if (text.charCodeAt(index) < 0x30 || text.charCodeAt(index) > 0x39) return false;
  return text.length >= 1 && text.length <= 10;
}

function tooLarge(bytesMax: number): ConnectError {
  return new ConnectError(`a message is at most ${bytesMax} bytes`, Code.ResourceExhausted);
}

/** What a stream needs to know, from Node's request and response. */
class NodeStreamCall implements StreamCall {
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #abort = new AbortController();
  readonly #onClose = () => this.#abort.abort(new ConnectError("the client is gone", Code.Canceled));
  #deadline: { readonly at: number; readonly timer: NodeJS.Timeout } | undefined;

  constructor(request: IncomingMessage, response: ServerResponse) {
    this.#request = request;
    this.#response = response;
    response.on("close", this.#onClose);
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  header(name: string): string | null {
    const value = this.#request.headers[name];
    return typeof value === "string" ? value : null;
  }

  timeoutMs(): number | undefined {
    return this.#deadline === undefined ? undefined : Math.max(this.#deadline.at - performance.now(), 0);
  }

  /** Reads `Connect-Timeout-Ms`. Throws `invalid_argument` for what is no deadline. */
  startDeadline(): void {
    const header = this.header("connect-timeout-ms");
    if (header === null) return;
    if (!isNumber(header)) throw new ConnectError("Connect-Timeout-Ms is not valid", Code.InvalidArgument);
    const timeoutMs = Number(header);
    if (timeoutMs > timerMsMax) return; // 25 days and more: no deadline anybody lives to see
    const abort = () => this.#abort.abort(new ConnectError("the deadline passed", Code.DeadlineExceeded));
    this.#deadline = { at: performance.now() + timeoutMs, timer: setTimeout(abort, timeoutMs) };
  }

  end(): void {
    clearTimeout(this.#deadline?.timer);
    this.#response.off("close", this.#onClose);
  }
}
