import type { IncomingHttpHeaders } from "node:http";

import { parseCookie, stringifySetCookie } from "cookie";
import type { FastifyReply } from "fastify";

/** Names begin with `__Host-` over TLS: browsers then take them from this very host only, with `Secure` and for all paths. */
export class CookieJar {
  readonly #isSecure: boolean;

  constructor(publicUrl: string) {
    this.#isSecure = new URL(publicUrl).protocol === "https:";
  }

  read(headers: IncomingHttpHeaders, name: CookieName): string | undefined {
    return headers.cookie === undefined ? undefined : parseCookie(headers.cookie)[this.#fullName(name)];
  }

  /** No script can read it, and other sites' pages do not send it, except when they lead here by a link. */
  set(reply: FastifyReply, name: CookieName, value: string, maxAgeSec: number): void {
    const options = { httpOnly: true, sameSite: "lax", secure: this.#isSecure, path: "/", maxAge: maxAgeSec } as const;
    void reply.header("set-cookie", stringifySetCookie({ name: this.#fullName(name), value, ...options }));
  }

  clear(reply: FastifyReply, name: CookieName): void {
    this.set(reply, name, "", 0);
  }

  #fullName(name: CookieName): string {
    return this.#isSecure ? `__Host-roost_${name}` : `roost_${name}`;
  }
}

/** `session`: who is signed in · `oauth`: that a way to a provider began in this browser */
export type CookieName = "session" | "oauth";
