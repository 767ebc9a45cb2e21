import {
  Agent,
  request as httpRequest,
  type ClientRequest,
  type IncomingMessage,
  type RequestOptions,
  type ServerResponse,
} from "node:http";
import type { Socket } from "node:net";
import { pipeline, type Duplex } from "node:stream";
import { connect as connectTls, type TLSSocket } from "node:tls";

import type { HeaderRule } from "@roost/contract";
import type { Logger } from "@roost/kit";

import { requestHeaders, responseHeaders, whyRefused } from "./request-heads.ts";
import { Refusal, type RelayTarget } from "./relay.ts";
import type { UpstreamTrust } from "./upstream-trust.ts";

/** A server that may be reached, over TCP. Rejects with a `Refusal`. */
export type OpenUpstream = (signal: AbortSignal) => Promise<{
  readonly target: RelayTarget;
  readonly socket: Socket;
  readonly trust: UpstreamTrust;
}>;

/** Time for a server to agree on keys, in `ms` */
const handshakeTimeoutMs = 15_000;
/** Time in `ms` in which a guest has to send the head of a request, the first as well as the next one */
const idleTimeoutMs = 120_000;
/** Requests that one connection may have sent ahead of their answers: each is held in memory */
const requestsAheadMax = 32;

export interface InterceptedConnectionOptions {
  readonly name: string;
  readonly guest: Socket;
  /** As it is now; undefined: there is none any more */
  readonly rule: () => HeaderRule | undefined;
  readonly open: OpenUpstream;
  readonly log: Logger;
}

/**
 * One connection of a guest to a domain with a rule: its requests go to one connection to the server, one after the other, with the rule's headers. Both end together, so a guest sees of a
 * server that ends its connection what it would see without us between them. Bodies are streamed, at the pace of the slower side.
 */
export class InterceptedConnection {
  readonly name: string;
  readonly #options: InterceptedConnectionOptions;
  readonly #agent: Agent;
  readonly #gone = new AbortController();
  readonly #upstreams = new Map<Duplex, RelayTarget>();
  #guest: TLSSocket | undefined;
  #underWay = 0;
  #idleTimer: NodeJS.Timeout | undefined;

  constructor(options: InterceptedConnectionOptions) {
    this.name = options.name;
    this.#options = options;
    this.#agent = new Agent({ keepAlive: true, maxSockets: 1, maxFreeSockets: 1 });
    const connectFor: unknown = (_: unknown, done: (error: Error | null, socket?: Duplex) => void) => {
      this.#connect().then(
        (socket) => done(null, socket),
        (error: unknown) => done(error instanceof Error ? error : new Error(String(error))),
      );
    };
    // Node calls it, and lets it answer later; its types know neither
    Object.assign(this.#agent, { createConnection: connectFor });
  }

  /** Where its requests go right now. */
  get targets(): readonly RelayTarget[] {
    return [...this.#upstreams.values()];
  }

  /** Guest and host have agreed on keys. */
  begin(guest: TLSSocket): void {
    this.#guest = guest;
    this.#awaitRequest();
  }

  request(request: IncomingMessage, response: ServerResponse): void {
    this.#entered(response);
    response.sendDate = false; // the server's word
    const refused = this.#whyRefused(request);
    if (refused !== undefined) return refuse(request, response, refused.status, refused.why);
    let asked: ClientRequest;
    try {
      asked = this.#ask(request, this.#agent);
    } catch {
      return refuse(request, response, 400, "it is malformed"); // the error may repeat what was to be sent
    }
    if (request.headers.expect !== undefined) asked.once("continue", () => response.writeContinue());
    asked.once("response", (answer) => this.#answer(answer, response));
    asked.once("upgrade", (_answer, socket) => {
      socket.destroy();
      refuse(request, response, 502, `${this.name} answered as if it had been asked for another protocol`);
    });
    asked.on("error", (error) => this.#failed(error, request, response));
    response.once("close", () => {
      if (!response.writableFinished) asked.destroy();
    });
    request.once("error", () => asked.destroy());
    request.pipe(asked);
  }

  /** A request to speak another protocol from now on: WebSocket passes, on a connection of its own. */
  upgrade(request: IncomingMessage, guest: Duplex, head: Buffer): void {
    this.#stopIdling();
    guest.on("error", () => undefined); // it shows as its close
    const refused = this.#whyRefused(request);
    if (refused !== undefined) return void guest.end(plainHead(refused.status, refused.why));
    if (request.headers.upgrade?.toLowerCase() !== "websocket") return void guest.end(plainHead(501, "only WebSocket is passed on"));
    const agent = new Agent({ maxSockets: 1 });
    Object.assign(agent, { createConnection: (this.#agent as unknown as { readonly createConnection: unknown }).createConnection });
    let asked: ClientRequest;
    try {
      asked = this.#ask(request, agent, "websocket");
    } catch {
      return void guest.end(plainHead(400, "it is malformed"));
    }
    guest.once("close", () => asked.destroy());
    asked.once("upgrade", (answer, upstream: Duplex, upstreamHead: Buffer) => {
      guest.write(headOf(answer, responseHeaders(answer, answer.headers.upgrade ?? "websocket")));
      if (upstreamHead.length > 0) guest.write(upstreamHead);
      if (head.length > 0) upstream.write(head);
      for (const each of [guest, upstream]) each.setMaxListeners(20); // two pipelines have more than the usual ten, and no leak
      pipeline(guest, upstream, () => undefined);
      pipeline(upstream, guest, () => undefined); // either end ends both
    });
    asked.once("response", (answer) => {
      guest.write(headOf(answer, [...responseHeaders(answer), "connection", "close"]));
      pipeline(answer, guest, () => undefined);
    });
    asked.on("error", (error) => {
      const { status, why } = this.#describe(error);
      if (!guest.writableEnded) guest.end(plainHead(status, why));
    });
    asked.end();
  }

  close(): void {
    this.#stopIdling();
    this.#gone.abort();
    this.#agent.destroy();
    for (const upstream of this.#upstreams.keys()) upstream.destroy();
  }

  #ask(request: IncomingMessage, agent: Agent, upgrade?: string): ClientRequest {
    const rule = this.#options.rule();
    if (rule === undefined) throw new Error("the rule is gone");
    const headers = requestHeaders(request, this.name, rule, upgrade);
    const options: RequestOptions = { agent, method: request.method ?? "GET", path: request.url ?? "/", headers };
    return httpRequest(options);
  }

  #answer(answer: IncomingMessage, response: ServerResponse): void {
    try {
      response.writeHead(answer.statusCode ?? 502, answer.statusMessage, responseHeaders(answer));
    } catch {
      answer.destroy();
      return void response.destroy(); // no guest is told a head that could mean two things
    }
    answer.once("end", () => {
      const { rawTrailers } = answer;
      const pairs = Array.from({ length: rawTrailers.length / 2 }, (_, index): [string, string] => [
        rawTrailers[2 * index] ?? "",
        rawTrailers[2 * index + 1] ?? "",
      ]);
      if (pairs.length > 0) response.addTrailers(pairs);
    });
    // What breaks off must not look whole: then the guest's connection breaks, too
    pipeline(answer, response, (error) => {
      if (error) response.destroy();
    });
  }

  #whyRefused(request: IncomingMessage) {
    if (this.#underWay > requestsAheadMax) return { status: 429, why: "too many requests were sent before their answers" };
    if (this.#options.rule() === undefined)
      return { status: 421, why: "the network policy of this sandbox has no rule for this name any more" };
    return whyRefused(request, this.name);
  }

  #failed(error: Error, request: IncomingMessage, response: ServerResponse): void {
    const { status, why } = this.#describe(error);
    if (response.headersSent) response.destroy();
    else refuse(request, response, status, why);
  }

  /** For the guest: without what the error may repeat of the request. */
  #describe(error: Error): { readonly status: number; readonly why: string } {
    const { code } = error as NodeJS.ErrnoException;
    // Not the error: that of a malformed answer has the answer, and that may repeat what was set
    this.#options.log.debug({ name: this.name, code, reason: error.message }, "a request of a guest could not be passed on");
    if (error instanceof Refusal) return { status: Number(error.status.slice(0, 3)), why: error.message };
    return { status: 502, why: `${this.name} could not be asked${code === undefined ? "" : ` (${code})`}` };
  }

  async #connect(): Promise<Duplex> {
    const { target, socket, trust } = await this.#options.open(this.#gone.signal);
    if (this.#gone.signal.aborted) {
      socket.destroy();
      throw new Refusal("the connection is gone", "502 Bad Gateway");
    }
    const upstream = connectTls({ socket, servername: this.name, secureContext: trust.context, ALPNProtocols: ["http/1.1"] });
    upstream.on("error", () => undefined); // whoever waits for it is told; later it shows as its close
    this.#upstreams.set(upstream, target);
    upstream.once("close", () => {
      this.#upstreams.delete(upstream);
      if (this.#underWay === 0 && this.#upstreams.size === 0) this.#guest?.end();
    });
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => upstream.destroy(new Error("it did not agree on keys in time")), handshakeTimeoutMs);
      upstream.once("secureConnect", resolve);
      upstream.once("error", reject);
      upstream.once("close", () => reject(new Error("it ended its connection")));
      upstream.once("secureConnect", () => clearTimeout(timer)).once("close", () => clearTimeout(timer));
    }).catch((error: unknown) => {
      upstream.destroy();
      const code = error instanceof Error ? ((error as NodeJS.ErrnoException).code ?? error.message) : "";
      throw new Refusal(`${this.name} was not believed to be itself, or did not agree on keys (${code})`, "502 Bad Gateway", {
        cause: error,
      });
    });
    return upstream;
  }

  #entered(response: ServerResponse): void {
    this.#stopIdling();
    this.#underWay += 1;
    response.once("close", () => {
      this.#underWay -= 1;
      if (this.#underWay > 0) return;
      this.#awaitRequest();
      // The server ended its connection with this answer, or meanwhile
      if (this.#upstreams.size === 0) this.#guest?.end();
    });
  }

  #awaitRequest(): void {
    this.#idleTimer = setTimeout(() => this.#guest?.destroy(), idleTimeoutMs);
    this.#idleTimer.unref();
  }

  #stopIdling(): void {
    clearTimeout(this.#idleTimer);
  }
}

function refuse(request: IncomingMessage, response: ServerResponse, status: number, why: string): void {
  if (response.headersSent) return void response.destroy();
  const text = `the request was not passed on: ${why}\n`;
  response.writeHead(status, {
    "content-type": "text/plain; charset=utf-8",
    "content-length": Buffer.byteLength(text),
    connection: "close",
  });
  response.end(text);
  request.resume(); // what is still coming is not read by anyone
}

function plainHead(status: number, why: string): string {
  const text = `the request was not passed on: ${why}\n`;
  return `HTTP/1.1 ${status} Refused\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: ${Buffer.byteLength(text)}\r\nconnection: close\r\n\r\n${text}`;
}

/** Of an answer that Node parsed: its parts hold no line ends. */
function headOf(answer: IncomingMessage, headers: readonly string[]): string {
  const lines = [`HTTP/1.1 ${answer.statusCode} ${answer.statusMessage}`];
  for (let index = 0; index + 1 < headers.length; index += 2) lines.push(`${headers[index]}: ${headers[index + 1]}`);
  return `${lines.join("\r\n")}\r\n\r\n`;
}
