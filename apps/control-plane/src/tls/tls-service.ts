import type { Server } from "node:http";

import type { Logger } from "@roost/kit";

import { EdgeCertificate, type EdgeCertificateOptions } from "./edge-certificate.ts";
import { TlsDoor } from "./tls-door.ts";

export interface TlsOptions extends EdgeCertificateOptions {
  readonly tls: boolean;
  readonly tlsAddress: string;
  readonly tlsPort: number;
}

export function isTlsWanted(options: Pick<TlsOptions, "tls" | "tlsCert" | "tlsKey">): boolean {
  return options.tls || options.tlsCert !== undefined || options.tlsKey !== undefined;
}

/** TLS of the control plane, where the operator wants it: the certificate, and the door in front of the API's server. */
export class TlsService {
  readonly #options: TlsOptions;
  readonly #certificate: EdgeCertificate;
  readonly #log: Logger;
  readonly #closed = new AbortController();
  #door: TlsDoor | undefined;
  #following: Promise<void> | undefined;

  private constructor(options: TlsOptions, certificate: EdgeCertificate, log: Logger) {
    this.#options = options;
    this.#certificate = certificate;
    this.#log = log;
  }

  /** Undefined where none is wanted. Throws when there is no certificate that could be used. */
  static async open(options: TlsOptions, log: Logger): Promise<TlsService | undefined> {
    return isTlsWanted(options) ? new TlsService(options, await EdgeCertificate.open(options, log), log) : undefined;
  }

  /** Listens in front of `server`; where, as a URL. */
  async listen(server: Server): Promise<string> {
    const { tlsAddress, tlsPort } = this.#options;
    const door = await TlsDoor.listen(server, { pem: this.#certificate.pem, host: tlsAddress, port: tlsPort, log: this.#log });
    this.#door = door;
    this.#following = this.#certificate.follow(this.#closed.signal, (pem) => door.useCertificate(pem));
    this.#log.info({ address: tlsAddress, port: door.port }, "TLS is served");
    return `https://${tlsAddress.includes(":") ? `[${tlsAddress}]` : tlsAddress}:${door.port}`;
  }

  /** Takes no new connections; what is under way goes on. */
  drain(): void {
    this.#door?.drain();
  }

  async close(): Promise<void> {
    this.#closed.abort();
    this.#door?.close();
    await this.#following;
  }
}
