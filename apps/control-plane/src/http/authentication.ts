import type { IncomingHttpHeaders, IncomingMessage } from "node:http";

import { PlatformError } from "@roost/contract";

import type { Caller } from "../accounts/caller.ts";
import type { ApiKeys } from "../teams/api-keys.ts";
import { ClientAddresses } from "./client-address.ts";

/** A request that wants to be known, and what of it goes into its `Caller` as it is. */
export interface Credentials {
  readonly request: IncomingMessage;
  readonly requestId: string;
  readonly address: string | null;
}

/** One way of saying who asks. */
export interface Authenticator {
  /** Who it is; undefined when the request says nothing in this way. Throws `api_key_invalid` when it does, and it is not true. */
  identify(credentials: Credentials): Promise<Caller | undefined>;
}

/** Who sent a request, by the first way that it uses. Never by what is in a URL: those end up in logs. */
export class Authentication {
  readonly #ways: readonly Authenticator[];
  readonly #addresses: ClientAddresses;
  readonly #admit: (caller: Caller) => Promise<void>;
  /** A request that lives long is asked about again and again, and is one nevertheless */
  readonly #admitted = new WeakSet<IncomingMessage>();

  /** `admit` throws for a caller who asks too often. */
  constructor(
    ways: readonly Authenticator[],
    addresses: ClientAddresses = new ClientAddresses([]),
    admit: (caller: Caller) => Promise<void> = async () => undefined,
  ) {
    this.#ways = ways;
    this.#addresses = addresses;
    this.#admit = admit;
  }

  /** Where a request came from, whoever sent it. */
  addressOf(request: IncomingMessage): string | null {
    return this.#addresses.of(request);
  }

  /** Throws `api_key_invalid` for nobody. */
  async identify(request: IncomingMessage, requestId: string): Promise<Caller> {
    const credentials = { request, requestId, address: this.addressOf(request) };
    for (const way of this.#ways) {
      const caller = await way.identify(credentials);
      if (caller === undefined) continue;
      if (!this.#admitted.has(request)) await this.#admit(caller);
      this.#admitted.add(request);
      return caller;
    }
    throw new PlatformError("api_key_invalid", "send an API key, as header `X-API-Key: roost_…` or `Authorization: Bearer roost_…`");
  }
}

/** By `X-API-Key`, or by `Authorization: Bearer` with what looks like a key. */
export class ApiKeyAuthenticator implements Authenticator {
  readonly #keys: ApiKeys;

  constructor(keys: ApiKeys) {
    this.#keys = keys;
  }

  async identify({ request, requestId, address }: Credentials): Promise<Caller | undefined> {
    const text = keyIn(request.headers);
    if (text === undefined) return undefined;
    const key = await this.#keys.check(text);
    return {
      actor: { kind: "api_key", id: key.id, name: key.name },
      teamId: key.teamId,
      role: null,
      scopes: key.scopes,
      isAdmin: key.isAdmin,
      requestId,
      address,
    };
  }
}

/** The key as the caller sent it. */
export function keyIn(headers: IncomingHttpHeaders): string | undefined {
  const key = headers["x-api-key"];
  if (typeof key === "string" && key !== "") return key;
  return bearerIn(headers, /^(?:roost|e2b)_/);
}

/** What `Authorization: Bearer` has, if it begins like this. */
export function bearerIn(headers: IncomingHttpHeaders, beginning: RegExp): string | undefined {
  const token = /^bearer +(\S+)$/i.exec(headers.authorization ?? "")?.[1];
  return token !== undefined && beginning.test(token) ? token : undefined;
}
