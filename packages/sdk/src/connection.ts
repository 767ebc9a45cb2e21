import { apiKeyPattern, sessionTokenPattern } from "@roost/contract";

import { RoostError } from "./errors.ts";

/** Time to wait for the answer of an ordinary request in `ms`. */
export const requestTimeoutMsDefault = 30_000;
/** Time to wait for a new sandbox in `ms`: a cold boot without hardware virtualization on a busy host takes long. */
export const createTimeoutMsDefault = 300_000;

export interface RoostClientOptions {
  /** Where the platform listens, such as `http://127.0.0.1:7070`. */
  readonly url: string;
  /** Either this, for programs, */
  readonly apiKey?: string | undefined;
  /** or this, for somebody who signed in. */
  readonly sessionToken?: string | undefined;
  /** Team that a session acts for here; default: its own. */
  readonly teamId?: string | undefined;
  /** Deadline of ordinary requests in `ms`. */
  readonly timeoutMs?: number | undefined;
  /** Sent as `User-Agent`. */
  readonly userAgent?: string | undefined;
}

/** What every request of one client shares. */
export interface Connection {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
}

export interface RequestOptions {
  /** Ends the request (or the stream it opened) early; it then rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Deadline of the answer in `ms`; a streaming body is not counted. */
  readonly timeoutMs?: number | undefined;
  /** Names the request, where it makes or changes something: sent again with the same key it does nothing twice. 1 to 255 characters, a UUID for example. */
  readonly idempotencyKey?: string | undefined;
}

/** Options of a call that saves or starts a sandbox, with as much time as a create has. */
export function savingTimeoutMs(options: RequestOptions): RequestOptions {
  return { ...options, timeoutMs: options.timeoutMs ?? createTimeoutMsDefault };
}

export function createConnection(options: RoostClientOptions): Connection {
  return openConnection(options, credentialsOf(options));
}

/** For what needs no credentials. */
export function openConnection(
  options: Pick<RoostClientOptions, "url" | "timeoutMs" | "userAgent">,
  credentials: Readonly<Record<string, string>> = {},
): Connection {
  return {
    url: parseUrl(options.url),
    headers: { ...credentials, "user-agent": options.userAgent ?? "roost-sdk" },
    timeoutMs: options.timeoutMs ?? requestTimeoutMsDefault,
  };
}

function credentialsOf({ apiKey, sessionToken, teamId }: RoostClientOptions): Record<string, string> {
  if (apiKey !== undefined) {
    if (apiKeyPattern.test(apiKey)) return { "x-api-key": apiKey };
    throw new RoostError("client_misconfigured", "the API key is not valid: it looks like `roost_` and hexadecimal digits");
  }
  if (sessionToken === undefined) throw new RoostError("client_misconfigured", "apiKey or sessionToken is needed");
  if (!sessionTokenPattern.test(sessionToken)) {
    throw new RoostError("client_misconfigured", "the session's token is not valid: it looks like `session_` and hexadecimal digits");
  }
  return { authorization: `Bearer ${sessionToken}`, ...(teamId === undefined ? {} : { "x-team-id": teamId }) };
}

function parseUrl(text: string): URL {
  let url: URL;
  try {
    url = new URL(text);
  } catch (error) {
    throw new RoostError("client_misconfigured", `not a URL: ${JSON.stringify(text)}; write it like http://127.0.0.1:7070`, {
      cause: error,
    });
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw new RoostError("client_misconfigured", `the URL must be http:// or https://, not ${url.protocol}//`);
  }
  return url;
}

/** Address of an operation below the connection's URL, whose own path (a prefix behind a gateway) is kept. */
export function addressOf(
  connection: Connection,
  path: string,
  query: Readonly<Record<string, string | readonly string[] | undefined>>,
): URL {
  const url = new URL(connection.url);
  url.pathname = url.pathname.replace(/\/+$/, "") + path;
  url.search = "";
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined) continue;
    for (const item of typeof value === "string" ? [value] : value) url.searchParams.append(name, item);
  }
  return url;
}
