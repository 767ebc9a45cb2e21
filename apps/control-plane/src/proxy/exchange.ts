import { request as httpRequest, type ClientRequest, type IncomingMessage, type InformationEvent, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";

import { KiB, second } from "@roost/kit";

import type { TunnelAgent } from "../guest/tunnel-agent.ts";
import { hasTooManyHeaders, responseHeaders, trailersOf, type HeaderList, type RoutedBy } from "./forwarded-headers.ts";
import { expectsContinue, hasBody } from "./request-body.ts";
import { discardRest } from "./rest-of-body.ts";

/** Request line and headers of a guest's response together in `bytes`; more is hostile */
const responseHeaderBytesMax = 64 * KiB;
/** Interim responses (1xx) before a response; more is hostile */
const interimMax = 16;
/** Wait in `ms` for a server that was asked to say `100 Continue`; one that knows nothing of that waits for the body itself (RFC 9110, 10.1.1) */
const continueTimeoutMs = 1 * second;
/** A request on its way to a guest. */
export interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** Path and query, as the guest gets them */
  readonly target: string;
  readonly headers: HeaderList;
  readonly agent: TunnelAgent;
  readonly port: number;
  readonly by: RoutedBy;
  /** It asks for another protocol */
  readonly isUpgrade: boolean;
  /** Time in `ms` without a byte in either direction after which it is cut */
  readonly idleTimeoutMs: number;
  /** Told the head of the guest's answer when it has begun */
  readonly onAnswer?: ((answer: IncomingMessage) => void) | undefined;
  /** Aborts when it is to be cut: the VM is gone, the platform ends */
  readonly cut: AbortSignal;
}

export type ExchangeEnd =
  /** The guest's answer was passed on, whole or until it broke off; or the client is gone */
  | { readonly kind: "done" }
  /** The guest agreed to another protocol; the tunnel is the caller's */
  | { readonly kind: "upgraded"; readonly answer: IncomingMessage; readonly tunnel: Duplex; readonly head: Buffer }
  | FailedExchange;

/** There was no answer. */
export interface FailedExchange {
  readonly kind: "failed";
  readonly error: unknown;
  /** Nothing of the request's body was read */
  readonly isUntouched: boolean;
  /** There was a connection: the guest may have got the request, and done what it says */
  readonly isSent: boolean;
  /** It went out on a used connection */
  readonly isReused: boolean;
}

/** Nothing moved for the idle time, before an answer. */
export class IdleError extends Error {
  override readonly name = "IdleError";
}

/**
 * Carries one request to a guest and its answer back, as fast as the slower side: bytes are never collected. When the guest breaks off in
 * its answer the client's connection is cut without the end of its stream, because the answer must not look complete.
 */
export async function exchange(options: Exchange): Promise<ExchangeEnd> {
  return new Promise((resolve) => {
    new Carrier(options, resolve).start();
  });
}

class Carrier {
  readonly #options: Exchange;
  readonly #resolve: (end: ExchangeEnd) => void;
  readonly #idle: NodeJS.Timeout;
  readonly #onCut: () => void;
  readonly #onClientGone: () => void;
  #upstream: ClientRequest | undefined;
  #received: IncomingMessage | undefined;
  #isUntouched = true;
  #isSent = false;
  #isAnswering = false;
  #isAnswered = false;
  #interimCount = 0;
  #hasEnded = false;

  constructor(options: Exchange, resolve: (end: ExchangeEnd) => void) {
    this.#options = options;
    this.#resolve = resolve;
    this.#idle = setTimeout(() => this.#fail(new IdleError("nothing moved")), options.idleTimeoutMs);
    this.#onCut = () => this.#fail(options.cut.reason);
    this.#onClientGone = () => this.#end({ kind: "done" });
  }

  start(): void {
    const { request, response, target, headers, agent, port, cut } = this.#options;
    if (cut.aborted) return this.#onCut();
    cut.addEventListener("abort", this.#onCut, { once: true });
    response.once("close", this.#onClientGone);
    let upstream: ClientRequest;
    try {
      upstream = httpRequest({
        agent,
        host: "169.254.0.21", // a name for the agent's pool
        port,
        method: request.method,
        path: target,
        headers,
        setHost: false,
        maxHeaderSize: responseHeaderBytesMax,
      });
    } catch (error) {
      return this.#fail(error); // a header or path that Node does not send
    }
    this.#upstream = upstream;
    upstream.on("error", (error) => {
      // A guest that has answered need not read the rest of what it was sent.
      if (this.#received?.complete !== true) this.#fail(error);
    });
    upstream.on("response", (answer) => this.#answer(answer));
    upstream.on("upgrade", (answer, tunnel: Duplex, head: Buffer) => this.#upgraded(answer, tunnel, head));
    upstream.on("information", (interim) => {
      this.#interimCount += 1;
      this.#idle.refresh();
      if (this.#interimCount > interimMax) this.#fail(new Error("too many interim responses"));
      else this.#passInterim(interim);
    });
    // Only on a connection that is there: until then the request can go another way, body and all.
    upstream.once("socket", () => this.#sendBody(upstream));
  }

  /** Those that say something to the client (RFC 9110, 15.2); `100 Continue` is answered where the body is. */
  #passInterim({ statusCode, headers }: InformationEvent): void {
    const { request, response } = this.#options;
    if (this.#hasEnded || response.headersSent || request.httpVersion === "1.0") return;
    if (statusCode === 102) response.writeProcessing();
    if (statusCode !== 103 || headers.link === undefined) return;
    try {
      response.writeEarlyHints({ link: headers.link });
    } catch {
      // a hint that Node does not take for one is not worth the answer
    }
  }

  #sendBody(upstream: ClientRequest): void {
    const { request, response } = this.#options;
    this.#isSent = true;
    if (!hasBody(request)) return void upstream.end();
    const send = () => {
      if (this.#hasEnded || !this.#isUntouched) return;
      this.#isUntouched = false;
      let hasSent = false;
      request.on("data", () => {
        hasSent = true;
        this.#idle.refresh();
      });
      request.once("end", () => {
        if (request.rawTrailers.length > 0) upstream.addTrailers(trailersOf(request));
        upstream.end();
      });
      request.pipe(upstream, { end: false });
      // The head goes out with the first piece where that is there already, and without it where the client waits for an answer first.
      setImmediate(() => {
        if (!hasSent) upstream.flushHeaders();
      });
    };
    if (!expectsContinue(request)) return send();
    const timer = setTimeout(() => {
      response.writeContinue();
      send();
    }, continueTimeoutMs);
    upstream.once("continue", () => {
      if (this.#isUntouched) response.writeContinue();
      send();
    });
    for (const event of ["response", "close", "continue"] as const) upstream.once(event, () => clearTimeout(timer));
  }

  #answer(answer: IncomingMessage): void {
    const { request, response, by } = this.#options;
    this.#received = answer;
    answer.on("error", (error) => this.#fail(error));
    answer.once("close", () => {
      if (!answer.complete) this.#fail(new Error("the guest broke off"));
    });
    if (this.#hasEnded) return void answer.destroy();
    if (hasTooManyHeaders(answer)) return this.#fail(new Error("the guest's answer has too many headers"));
    try {
      // What is left of a body when the answer has ended is not read: the connection cannot be used again.
      if (!request.complete) response.shouldKeepAlive = false;
      response.writeHead(answer.statusCode ?? 502, responseHeaders(answer, by));
      response.flushHeaders();
    } catch (error) {
      return this.#fail(error); // a status or header that no client should see
    }
    this.#isAnswering = true;
    this.#options.onAnswer?.(answer);
    answer.on("data", () => this.#idle.refresh());
    answer.once("end", () => {
      this.#isAnswered = true;
      if (this.#upstream !== undefined) request.unpipe(this.#upstream);
      discardRest(request, () => {
        if (answer.rawTrailers.length > 0) response.addTrailers(trailersOf(answer));
        response.end();
        this.#end({ kind: "done" });
      });
    });
    answer.pipe(response, { end: false });
  }

  #upgraded(answer: IncomingMessage, tunnel: Duplex, head: Buffer): void {
    if (this.#hasEnded || !this.#options.isUpgrade) {
      tunnel.destroy();
      return this.#fail(new Error("the guest changed the protocol unasked"));
    }
    this.#upstream = undefined; // what is left of it is the tunnel
    this.#end({ kind: "upgraded", answer, tunnel, head });
  }

  /** Something broke: an answer that has begun is cut off, one that has not can be another. */
  #fail(error: unknown): void {
    if (this.#hasEnded) return;
    if (this.#isAnswering) {
      this.#options.response.destroy();
      this.#end({ kind: "done" });
    } else {
      const isReused = this.#upstream?.reusedSocket === true;
      this.#end({ kind: "failed", error, isUntouched: this.#isUntouched, isSent: this.#isSent, isReused });
    }
  }

  #end(end: ExchangeEnd): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    const { request, response, cut } = this.#options;
    clearTimeout(this.#idle);
    cut.removeEventListener("abort", this.#onCut);
    response.removeListener("close", this.#onClientGone);
    const upstream = this.#upstream;
    if (upstream !== undefined) {
      request.unpipe(upstream);
      // A connection whose request and answer are whole goes back to the pool by itself; any other is of no use.
      if (!this.#isAnswered || !upstream.writableFinished) upstream.destroy();
    }
    this.#resolve(end);
  }
}
