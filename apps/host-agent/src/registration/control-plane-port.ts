import { createHash } from "node:crypto";
import { request } from "node:http";
import {
  connect,
  createSecureContext,
  type ConnectionOptions,
  type DetailedPeerCertificate,
  type PeerCertificate,
  type SecureContext,
  type TLSSocket,
} from "node:tls";

import {
  certificateName,
  controlPlaneName,
  errorBodySchema,
  errorCodeHeader,
  hostPortBodyBytesMax,
  isErrorCode,
  PlatformError,
} from "@roost/contract";
import { second } from "@roost/kit";
import type { z } from "zod";

/** Time for a whole exchange in `ms`: beyond it the control plane counts as away */
const exchangeTimeoutMs = 10 * second;
/** Certificates of a chain that are looked at */
const chainLengthMax = 5;

/** What a host shows, and by what it knows the control plane. PEM. */
export interface PortIdentity {
  readonly caPem: string;
  /** Null while it has none: only to register */
  readonly own: { readonly keyPem: string; readonly certificatePem: string } | null;
}

/** The control plane cannot be reached, or somebody else answers. */
export class ControlPlaneAwayError extends Error {
  override readonly name = "ControlPlaneAwayError";
}

/** Somebody answers who has nothing to do with the token that a host was given. */
export class WrongControlPlaneError extends Error {
  override readonly name = "WrongControlPlaneError";
}

/** The control plane's host port, as a host sees it: JSON over TLS 1.3, and nobody but the control plane is told anything. */
export class ControlPlanePort {
  readonly url: string;
  readonly #context: SecureContext;

  constructor(url: string, { caPem, own }: PortIdentity) {
    this.url = url;
    this.#context = createSecureContext({
      ca: caPem,
      minVersion: "TLSv1.3",
      ...(own === null ? {} : { key: own.keyPem, cert: own.certificatePem }),
    });
  }

  /** Rejects with the `PlatformError` that it answers, or with `ControlPlaneAwayError`. */
  async post<Schema extends z.ZodType>(path: string, body: unknown, schema: Schema, signal?: AbortSignal): Promise<z.output<Schema>> {
    const deadline = AbortSignal.timeout(exchangeTimeoutMs);
    const { status, code, text } = await this.#exchange(path, body, signal === undefined ? deadline : AbortSignal.any([deadline, signal]));
    if (status === 200 || status === 201) {
      const parsed = schema.safeParse(parseJson(text));
      if (parsed.success) return parsed.data;
      throw new ControlPlaneAwayError(`${this.url}${path} answered something that makes no sense here: is it of another version?`, {
        cause: parsed.error,
      });
    }
    const refusal = errorBodySchema.safeParse(parseJson(text));
    const known = code ?? (refusal.success ? refusal.data.error.code : "");
    if (!refusal.success || !isErrorCode(known)) throw new ControlPlaneAwayError(`${this.url}${path} answered ${status}`);
    throw new PlatformError(known, refusal.data.error.message);
  }

  /** The request is written when it is known who will read it. */
  async #exchange(path: string, body: unknown, signal: AbortSignal) {
    const data = JSON.stringify(body);
    const away = (error: unknown) =>
      new ControlPlaneAwayError(`the control plane at ${this.url} cannot be reached: ${reasonOf(error)}`, { cause: error });
    const socket = await openTls(this.url, { secureContext: this.#context, rejectUnauthorized: true, checkServerIdentity }, signal).catch(
      (error: unknown) => Promise.reject(away(error)),
    );
    return new Promise<{ readonly status: number; readonly code: string | undefined; readonly text: string }>((resolve, reject) => {
      const fail = (error: Error) => reject(away(error));
      const headers = { host: new URL(this.url).host, "content-type": "application/json", "content-length": Buffer.byteLength(data) };
      const asked = request({ method: "POST", path, headers, createConnection: () => socket, signal }, (response) => {
        let text = "";
        response.setEncoding("utf8");
        response.on("error", fail);
        response.on("data", (chunk: string) => {
          text += chunk;
          if (text.length > hostPortBodyBytesMax) response.destroy(new Error("its answer is too long"));
        });
        response.once("end", () => {
          const code = response.headers[errorCodeHeader];
          resolve({ status: response.statusCode ?? 0, code: typeof code === "string" ? code : undefined, text });
        });
      });
      asked.once("error", fail);
      asked.end(data);
    });
  }
}

/**
 * The certificate of the authority behind the control plane's own, PEM, by the first 128 bits of its SHA-256. Nothing is sent: whoever answers has only shown certificates,
 * and has yet to prove that one of that authority is its own.
 */
export async function findAuthority(url: string, fingerprint: string): Promise<string> {
  const deadline = AbortSignal.timeout(exchangeTimeoutMs);
  const socket = await openTls(url, { rejectUnauthorized: false, minVersion: "TLSv1.3" }, deadline).catch((error: unknown) => {
    throw new ControlPlaneAwayError(`the control plane at ${url} cannot be reached: ${reasonOf(error)}`, { cause: error });
  });
  const chain = chainOf(socket.getPeerCertificate(true));
  socket.destroy();
  const found = chain.find(({ raw }) => createHash("sha256").update(raw).digest("hex").startsWith(fingerprint));
  if (found === undefined) {
    throw new WrongControlPlaneError(
      `who answers at ${url} is not the control plane that made this token; nothing was sent to it. Check the address and the token`,
    );
  }
  return `-----BEGIN CERTIFICATE-----\n${found.raw.toString("base64").replaceAll(/.{64}/g, "$&\n")}\n-----END CERTIFICATE-----\n`;
}

/** A connection whose other side is known as far as the options ask; nothing was sent over it. */
async function openTls(url: string, options: ConnectionOptions, signal: AbortSignal): Promise<TLSSocket> {
  const { hostname, port } = new URL(url);
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const host = hostname.replace(/^\[(.*)\]$/, "$1");
    const socket = connect({ ...options, host, port: Number(port || 443), ALPNProtocols: ["http/1.1"], servername: "" });
    const onAbort = () => socket.destroy(signal.reason as Error);
    signal.addEventListener("abort", onAbort, { once: true });
    socket.on("error", reject);
    socket.once("close", () => reject(new Error("it closed the connection")));
    socket.once("secureConnect", () => {
      signal.removeEventListener("abort", onAbort);
      resolve(socket);
    });
  });
}

function chainOf(first: DetailedPeerCertificate): { readonly raw: Buffer }[] {
  const chain: { readonly raw: Buffer }[] = [];
  let next: DetailedPeerCertificate | undefined = first;
  while (next !== undefined && chain.length < chainLengthMax) {
    if (next.raw === undefined || chain.some(({ raw }) => raw.equals(next?.raw ?? Buffer.alloc(0)))) break; // a root is its own issuer
    chain.push(next);
    next = next.issuerCertificate;
  }
  return chain;
}

function checkServerIdentity(_host: string, { subjectaltname }: PeerCertificate): Error | undefined {
  const name = certificateName(subjectaltname);
  return name === controlPlaneName
    ? undefined
    : new Error(`the certificate there is of ${name ?? "nobody we know"}, not of ${controlPlaneName}`);
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.name === "TimeoutError" || error.name === "AbortError" ? "it did not answer in time" : error.message;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
