import { ServerResponse, type IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";

import { guestAgentPort, PlatformError } from "@roost/contract";
import { second, ServiceLoop } from "@roost/kit";

import type { TokenHolder } from "../db/token-holders.ts";
import { findPlatformError } from "../guest/guest-errors.ts";
import { Carriage, type CarriageDependencies, type CarriedRequest } from "./carriage.ts";
import { hasTooManyHeaders } from "./forwarded-headers.ts";
import { takeGrant } from "./port-grant.ts";
import { answerPreflight } from "./preflight.ts";
import { refusal, RefusedError, refusalOf, sendRefusal } from "./refusals.ts";
import { hasBody } from "./request-body.ts";
import { routeRequest, type ProxyRoute } from "./route.ts";
import { SignedFiles } from "./signed-files.ts";

/** Time requests have to end in `ms` when the platform shuts down; streams may be endless, so they are cut then */
const drainTimeoutMs = 5 * second;
/** Time between two looks in `ms`: what this control plane changed itself, or its clock alone, is found at once or by the next one */
const reviewIntervalMs = 5 * second;
/** First keepalive probe in `ms` of an upgraded connection: a client that vanished is found out */
const tcpKeepAliveMs = 60 * second;

export interface ProxyDependencies extends CarriageDependencies {
  readonly listTokenHolders: (limit: number) => Promise<readonly TokenHolder[]>;
  readonly metrics: ProxyMetrics;
}

export interface ProxyMetrics {
  proxyOpened(): void;
  /** `result`: the class of the answer's status, or `cut` when there was none */
  proxyClosed(result: string): void;
}

interface Upgrade {
  readonly client: Duplex;
  /** What the client sent after its request's head */
  readonly head: Buffer;
}

/** The data plane: carries HTTP requests and connections to ports of guests. What it cannot carry it answers itself. */
export class Proxy {
  readonly #deps: ProxyDependencies;
  readonly #carriage: Carriage;
  readonly #signedFiles: SignedFiles;
  #isDraining = false;

  constructor(deps: ProxyDependencies) {
    this.#deps = deps;
    this.#carriage = new Carriage(deps);
    this.#signedFiles = new SignedFiles({ list: deps.listTokenHolders, log: deps.log });
  }

  /** Whether a request is for a guest. Nothing is looked up. */
  claims(request: IncomingMessage): boolean {
    return routeOf(request).kind !== "control";
  }

  /** Carries a request that was claimed. It is answered in any case. */
  handle(request: IncomingMessage, response: ServerResponse): void {
    void this.#serve(request, response, undefined);
  }

  /** The same for a server's `upgrade` event: a WebSocket, or any other protocol that a guest agrees to. */
  upgrade(request: IncomingMessage, client: Duplex, head: Buffer): void {
    // A response like any other, until the guest agrees. Node makes none for these requests.
    const response = new ServerResponse(request);
    response.assignSocket(client as Socket);
    response.shouldKeepAlive = false;
    client.on("error", () => response.destroy());
    client.on("drain", () => response.emit("drain"));
    response.once("finish", () => client.end(() => client.destroy()));
    (client as Partial<Socket>).setKeepAlive?.(true, tcpKeepAliveMs);
    void this.#serve(request, response, { client, head });
  }

  /** The sandbox's record has changed. */
  recordChanged(sandboxId: string): void {
    this.#carriage.recordChanged(sandboxId);
  }

  /** The sandbox is about to be paused: what would never end is cut, the rest may end. */
  pausing(sandboxId: string): void {
    this.#carriage.pausing(sandboxId);
  }

  /** Looks now and then whether what is under way would still be let in. */
  async run(signal: AbortSignal): Promise<void> {
    await new ServiceLoop("review of open requests", this.#deps.log, signal).every(reviewIntervalMs, async () =>
      this.#carriage.reviewAll(),
    );
  }

  /** The sandbox's VM is gone: whatever is under way to it is cut. */
  drop(sandboxId: string): void {
    this.#carriage.drop(sandboxId);
  }

  /** Takes nothing new, lets what is under way end for a moment, and cuts the rest. */
  async drain(): Promise<void> {
    this.#isDraining = true;
    await this.#carriage.drained(drainTimeoutMs);
    this.close();
  }

  close(): void {
    this.#isDraining = true;
    this.#carriage.close();
  }

  async #serve(request: IncomingMessage, response: ServerResponse, upgrade: Upgrade | undefined): Promise<void> {
    const { metrics } = this.#deps;
    metrics.proxyOpened();
    response.on("error", () => undefined); // `close` says as much
    const about: { sandboxId?: string } = {};
    try {
      const route = routeOf(request);
      if (route.kind === "preflight" && upgrade === undefined) answerPreflight(request, response);
      else await this.#carriage.carry(await this.#accept(route, { request, response, upgrade }, about));
    } catch (error) {
      this.#refuse(request, response, error, about.sandboxId);
    } finally {
      const isCut = !response.headersSent || (response.destroyed && !response.writableEnded);
      metrics.proxyClosed(isCut ? "cut" : `${Math.trunc(response.statusCode / 100)}xx`);
    }
  }

  /** Finds out what is to be carried where; `about` is filled as soon as it is known, for the answer when something is wrong. */
  async #accept(
    route: ProxyRoute,
    { request, response, upgrade }: Pick<CarriedRequest, "request" | "response" | "upgrade">,
    about: { sandboxId?: string },
  ): Promise<CarriedRequest> {
    if (route.kind === "sandbox") about.sandboxId = route.sandboxId;
    if (route.kind === "invalid") throw new RefusedError(refusal(400, route.message));
    if (route.kind === "control" || route.kind === "preflight") throw new RefusedError(refusal(400, "this request is for no sandbox"));
    if (this.#isDraining) throw new RefusedError(refusal(503, "the platform is shutting down", { ...about, retryAfterSec: 5 }));
    if (hasTooManyHeaders(request)) throw new RefusedError(refusal(431, "the request has too many headers", about));
    const coding = request.headers["transfer-encoding"];
    if (coding !== undefined && coding.toLowerCase() !== "chunked") {
      throw new RefusedError(refusal(501, "of transfer codings only `chunked` is known", about));
    }
    if (upgrade !== undefined && hasBody(request)) {
      throw new RefusedError(refusal(400, "a request for another protocol cannot have a body", about));
    }
    const url = request.url ?? "";
    if (route.kind === "sandbox") {
      const { sandboxId, port, by } = route;
      const granted = by === "host" && port !== guestAgentPort ? takeGrant(url) : { target: url, grant: undefined };
      return { request, response, upgrade, sandboxId, port, by, ...granted };
    }
    const signer = await this.#signedFiles.signerOf(request.method ?? "", url, request.headers);
    if (signer === undefined) throw new RefusedError(refusal(401, "invalid signature"));
    about.sandboxId = signer;
    return { request, response, upgrade, sandboxId: signer, port: guestAgentPort, by: "signature", target: url, grant: undefined };
  }

  #refuse(request: IncomingMessage, response: ServerResponse, error: unknown, sandboxId: string | undefined): void {
    if (response.destroyed) return;
    if (response.headersSent) return void response.destroy();
    const known = error instanceof RefusedError ? error : (findPlatformError(error) ?? error);
    const refused = refusalOf(known, sandboxId);
    if (!(known instanceof RefusedError) && !(known instanceof PlatformError)) {
      this.#deps.log.error({ err: error, sandboxId, method: request.method }, "a request to a sandbox failed");
    } else this.#deps.log.debug({ err: error, sandboxId, method: request.method, status: refused.status }, "request to a sandbox refused");
    sendRefusal(request, response, refused);
  }
}

function routeOf(request: IncomingMessage): ProxyRoute {
  return routeRequest(request.method ?? "", request.url ?? "", request.headers);
}
