import { isIP } from "node:net";

import { UsageError } from "../failure.ts";

export interface LocalEnd {
  readonly address: string;
  /** 0: one that is free */
  readonly port: number;
}

const loopback = "127.0.0.1";
const form = "write it as PORT, ADDRESS:PORT or ADDRESS, such as 8080 or 127.0.0.1:8080";

/** Where to listen on this machine: `8080`, `127.0.0.1:8080`, `[::1]:8080`, an address alone (a free port), or nothing of it. */
export function parseLocalEnd(text: string, mayBeSeen: boolean): LocalEnd {
  const isPort = /^\d{1,5}$/.test(text);
  const match = isPort ? null : /^(?:\[([\da-f:.]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/i.exec(text);
  const named = match?.[1] ?? match?.[2] ?? loopback;
  const address = named === "localhost" ? loopback : named;
  const port = Number(isPort ? text : (match?.[3] ?? 0));
  const isKnown = text === "" || isPort || match !== null;
  if (!isKnown || isIP(address) === 0 || port > 65_535) throw new UsageError(`${JSON.stringify(text)} is no address to listen on`, form);
  if (!mayBeSeen && !isLoopback(address)) {
    throw new UsageError(
      `${address} can be reached by other machines, which then reach the sandbox as you do`,
      "say --expose if that is what you want",
    );
  }
  return { address, port };
}

function isLoopback(address: string): boolean {
  return address === "::1" || address.startsWith("127.");
}
