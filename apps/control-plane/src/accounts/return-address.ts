import { PlatformError } from "@roost/contract";

/** Where a browser goes when a way to a provider is done. */
export interface ReturnAddress {
  /** On this platform, or on a program's own little server, where the code for its session goes to */
  readonly kind: "page" | "program";
  readonly url: string;
}

/**
 * Never another site: the code of a session could be sent there. A path of this platform, or a program of the user's on their own machine
 * (RFC 8252): which must then prove with its `challenge` that it is the one that asked.
 */
export function parseReturnAddress(text: string, publicUrl: string, hasChallenge: boolean): ReturnAddress {
  if (/^\/(?![/\\])/.test(text)) {
    const url = new URL(text, publicUrl);
    // `/.//evil.example` is a path of ours only until its dots are resolved: what is left then is another site's address
    const isPath = url.origin === new URL(publicUrl).origin && !url.pathname.startsWith("//");
    if (isPath) return { kind: "page", url: url.pathname + url.search + url.hash };
  }
  if (URL.canParse(text)) {
    const { protocol, hostname, port, username, password } = new URL(text);
    const isLoopback = protocol === "http:" && (hostname === "127.0.0.1" || hostname === "[::1]") && port !== "";
    if (isLoopback && username === "" && password === "") {
      if (hasChallenge) return { kind: "program", url: text };
      throw new PlatformError("request_invalid", "challenge is missing: a program needs one to get its session");
    }
  }
  throw new PlatformError(
    "request_invalid",
    "return_to: must be a path of this platform, such as /, or http://127.0.0.1:PORT/… of a program that waits there",
  );
}

/** With parameters added to its query. */
export function withQuery(address: string, parameters: Readonly<Record<string, string>>): string {
  const isPath = address.startsWith("/");
  const url = new URL(address, "http://localhost");
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
  return isPath ? url.pathname + url.search + url.hash : url.href;
}
