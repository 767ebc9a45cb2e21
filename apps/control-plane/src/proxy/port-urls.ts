import { portGrantParameter } from "@roost/contract";

import { localSandboxDomain } from "../tls/edge-certificate.ts";

export interface PortUrlOptions {
  readonly port: number;
  readonly tlsPort: number;
  readonly isTls: boolean;
  readonly domain?: string | undefined;
  readonly publicUrl?: string | undefined;
}

/**
 * Where ports of sandboxes are, for browsers. With a public URL the domain is served as that is: by whatever is in front of here, at the domain as it was given. Else it
 * is served here: by TLS where there is, at the port that is listened on unless the domain names one. Without a domain names below `localhost` lead to this machine.
 */
export class PortUrls {
  readonly #options: PortUrlOptions;
  #listening: { readonly port: number; readonly tlsPort: number | undefined } | undefined;

  constructor(options: PortUrlOptions) {
    this.#options = options;
  }

  /** Tells where it came to listen. */
  listening(port: number, tlsPort: number | undefined): void {
    this.#listening = { port, tlsPort };
  }

  /** `port`: also `{port}`, for a pattern. Without a slash at its end */
  origin(sandboxId: string, port: number | "{port}"): string {
    const { domain, publicUrl, isTls } = this.#options;
    const isFronted = domain !== undefined && publicUrl !== undefined;
    const scheme = isFronted ? new URL(publicUrl).protocol : isTls ? "https:" : "http:";
    const hasPort = domain?.includes(":") === true;
    const suffix = isFronted || hasPort ? "" : this.#portSuffix();
    return `${scheme}//${port}-${sandboxId}.${domain ?? localSandboxDomain}${suffix}`;
  }

  #portSuffix(): string {
    const { isTls, port, tlsPort } = this.#options;
    const at = isTls ? (this.#listening?.tlsPort ?? tlsPort) : (this.#listening?.port ?? port);
    return at === (isTls ? 443 : 80) ? "" : `:${at}`;
  }
}

/** The URL with a grant; `path` may have a query. */
export function withGrant(origin: string, path: string, grant: string): string {
  return `${origin}${path}${path.includes("?") ? "&" : "?"}${portGrantParameter}=${grant}`;
}
