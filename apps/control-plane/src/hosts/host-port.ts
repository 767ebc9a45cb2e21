import { constants } from "node:crypto";
import type { AddressInfo } from "node:net";
import type { Server as TlsServer, TLSSocket } from "node:tls";

import {
  certificateName,
  heartbeatBodySchema,
  hostIdOf,
  hostPortBodyBytesMax,
  hostPortPaths,
  PlatformError,
  registerHostBodySchema,
  renewCertificateBodySchema,
} from "@roost/contract";
import { KiB, limitPeers, minute, second, type Logger } from "@roost/kit";
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from "fastify";
import { RateLimiterMemory } from "rate-limiter-flexible";

import { addressKey } from "../accounts/attempts.ts";
import { toPlatformError } from "../http/errors.ts";
import { requestIdHeader, requestIdOf } from "../http/request-id.ts";
import { parse } from "../http/validation.ts";
import type { Heartbeats } from "./heartbeats.ts";
import { HostRequestLimits } from "./host-request-limits.ts";
import { contextOf, plainFingerprint } from "./host-peer.ts";
import type { ControlPlaneIdentity } from "./own-identity.ts";
import type { Registrations } from "./registrations.ts";

/** Time that a peer has for its TLS handshake, its headers and its body in `ms`: all of it is a few KiB */
const requestTimeoutMs = 15 * second;
/** Hosts ask every few seconds: their connections are kept for longer than that, in `ms` */
const keepAliveTimeoutMs = 75 * second;
/** Connections at once: a few per host; above, new ones are closed as they come */
const connectionsMax = 4_096;
/** Of these, of all who showed no certificate that counts: to register takes a second */
const strangersMax = 512;
/** And of one host: it has one, and another while that is being replaced */
const connectionsPerHost = 8;
/** Time between two looks for requests that take too long, in `ms` */
const timeoutsCheckMs = 5 * second;
/** Registrations per minute from one address, and from all: an operator adds a rack of hosts, a guesser gets nowhere */
const registrationsPerAddress = 20;
const registrationsAtAll = 300;

export interface HostPortDependencies {
  readonly identity: ControlPlaneIdentity;
  readonly registrations: Registrations;
  readonly heartbeats: Heartbeats;
  readonly log: Logger;
  readonly now?: () => Date;
}

interface KnownHost {
  readonly id: string;
  /** Of the certificate that it showed */
  readonly fingerprint: string;
}

/**
 * The listener that hosts talk to; the protocol is in `packages/contract/src/host-registration.ts`. It has nothing of the API's and shares no port with it: who may speak here
 * is decided by certificates alone, and only `register` can be reached without one.
 */
export class HostPort {
  readonly #app: FastifyInstance;

  private constructor(app: FastifyInstance) {
    this.#app = app;
  }

  static async build(deps: HostPortDependencies): Promise<HostPort> {
    const app = fastify({
      logger: false,
      bodyLimit: hostPortBodyBytesMax,
      requestTimeout: requestTimeoutMs,
      keepAliveTimeout: keepAliveTimeoutMs,
      forceCloseConnections: true,
      genReqId: (request) => requestIdOf(request.headers[requestIdHeader]),
      https: {
        ...contextOf(deps.identity.present),
        requestCert: true,
        // who has none may register; all else is refused where it is asked for, with an answer that says why
        rejectUnauthorized: false,
        // a resumed session shows no certificate
        secureOptions: constants.SSL_OP_NO_TICKET,
        handshakeTimeout: requestTimeoutMs,
        headersTimeout: requestTimeoutMs,
        connectionsCheckingInterval: timeoutsCheckMs,
        maxHeaderSize: 16 * KiB,
      },
    }) as unknown as FastifyInstance;
    app.server.maxConnections = connectionsMax;
    limitPeers(app.server as unknown as TlsServer, { strangersMax, perPeerMax: connectionsPerHost, nameOf: nameOfHost });
    deps.identity.onChange((identity) =>
      (app.server as unknown as { setSecureContext(context: object): void }).setSecureContext(contextOf(identity)),
    );
    addErrorAnswers(app, deps.log);
    addRegistration(app, deps);
    addHostRoutes(app, deps);
    await app.ready();
    return new HostPort(app);
  }

  /** Answers the port. */
  async listen(address: string, port: number): Promise<number> {
    await this.#app.listen({ host: address, port });
    return (this.#app.server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    await this.#app.close();
  }
}

function addRegistration(app: FastifyInstance, { registrations, log }: HostPortDependencies): void {
  const ofAddress = new RateLimiterMemory({ points: registrationsPerAddress, duration: minute / second });
  const ofAll = new RateLimiterMemory({ points: registrationsAtAll, duration: minute / second });
  const onRequest = async (request: FastifyRequest) => {
    const address = addressKey(request.socket.remoteAddress ?? null);
    try {
      await ofAddress.consume(address);
      await ofAll.consume("all");
    } catch {
      log.warn({ address }, "too many registrations; refused");
      throw new PlatformError("rate_limited", "too many registrations were tried; try again in a minute", { retryAfterSec: 60 });
    }
  };
  app.post(hostPortPaths.register, { onRequest }, async (request) => {
    const body = parse(registerHostBodySchema, request.body ?? {}, "the body");
    return registrations.register(body, request.id, request.socket.remoteAddress ?? null);
  });
}

function addHostRoutes(app: FastifyInstance, deps: HostPortDependencies): void {
  const { registrations, heartbeats } = deps;
  const known = new WeakMap<FastifyRequest, KnownHost>();
  const limits = new HostRequestLimits(heartbeats.times.heartbeatMs);
  // before the body is read, and before the database is asked
  const onRequest = async (request: FastifyRequest, reply: FastifyReply) => {
    const host = knownHost(request.raw.socket as TLSSocket, deps.now?.() ?? new Date());
    const done = await limits.begin(host.fingerprint);
    reply.raw.once("close", done);
    await registrations.authenticate(host.id, host.fingerprint);
    known.set(request, host);
  };
  const hostOf = (request: FastifyRequest): KnownHost => {
    const host = known.get(request);
    if (host === undefined) throw new Error("a host's request is answered after it was authenticated");
    return host;
  };
  app.post(hostPortPaths.certificate, { onRequest }, async (request) => {
    const body = parse(renewCertificateBodySchema, request.body ?? {}, "the body");
    const { id, fingerprint } = hostOf(request);
    return registrations.renew(id, fingerprint, body.csr_pem);
  });
  app.post(hostPortPaths.heartbeat, { onRequest }, async (request) => {
    const body = parse(heartbeatBodySchema, request.body ?? {}, "the body");
    const { id } = hostOf(request);
    const answer = await heartbeats.beat(id, body);
    if (answer === undefined)
      throw new PlatformError("host_deleted", `host ${id} was deleted; it is no part of this installation any more`);
    return answer;
  });
}

/** By its certificate; undefined: it showed none of ours. */
function nameOfHost(socket: TLSSocket): string | undefined {
  return socket.authorized ? certificateName(socket.getPeerCertificate().subjectaltname) : undefined;
}

/** Whose certificate the peer showed, as far as that says. */
function knownHost(socket: TLSSocket, now: Date): KnownHost {
  const certificate = socket.getPeerCertificate();
  if (!socket.authorized) {
    const why =
      Object.keys(certificate).length === 0
        ? "a host's certificate is needed here"
        : `the certificate is not good: ${String(socket.authorizationError)}`;
    throw refused(why);
  }
  if (Date.parse(certificate.valid_to) <= now.getTime()) throw refused("the certificate has expired");
  const id = hostIdOf(certificateName(certificate.subjectaltname) ?? "");
  if (id === undefined) throw refused("the certificate is no host's");
  return { id, fingerprint: plainFingerprint(certificate.fingerprint256) };
}

function refused(why: string): PlatformError {
  return new PlatformError("host_certificate_refused", `${why}; register the host with a new token (roost host token <host>)`);
}

function addErrorAnswers(app: FastifyInstance, log: Logger): void {
  const send = (error: unknown, request: FastifyRequest, reply: FastifyReply) => {
    const known = hostPortError(error);
    if (known.status >= 500) log.error({ err: error, requestId: request.id, path: request.url }, "a host's request failed");
    else
      log.info(
        { requestId: request.id, path: request.url, code: known.code, address: request.socket.remoteAddress, detail: known.message },
        "a host's request was refused",
      );
    if (known.retryAfterSec !== undefined) void reply.header("retry-after", known.retryAfterSec);
    return reply.header(requestIdHeader, request.id).code(known.status).send(known.toBody());
  };
  app.setErrorHandler(send);
  app.setNotFoundHandler((request, reply) =>
    send(new PlatformError("route_not_found", "there is nothing at this path of the host port"), request, reply),
  );
}

function hostPortError(error: unknown): PlatformError {
  const known = toPlatformError(error);
  if (known.code !== "request_too_large") return known;
  return new PlatformError("request_too_large", `the request's body is larger than ${hostPortBodyBytesMax / KiB} KiB`, { cause: error });
}
